"""On a GPU, in BF16 and through the kernels, against the same in FP32 on the CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from backends.longcat import schedule, weights
from backends.longcat.attention import AfterHistory, Alone, Place
from backends.longcat.sampler import Guidance, Sampler
from backends.longcat.transformer import Transformer
from qvg import BF16, QVG, CacheGeometry, KVCache
from qvg.config import CodecConfig
from tests.backends.longcat import samples
from tests.backends.longcat.recorded import transformer
from tests.backends.longcat.samples import COLUMNS, CONFIG, ROWS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
PLACE = Place(CONFIG.rope_pairs, ROWS, COLUMNS)
GEOMETRY = CacheGeometry(CONFIG.layers, CONFIG.heads, CONFIG.head_dim, ROWS * COLUMNS)
T = torch.tensor(732.0)  # a BF16 number


def on_gpu(precision: weights.Precision = "bf16") -> Transformer:
    return weights.load(transformer().state_dict(), CONFIG, ["cuda"], torch.bfloat16, precision)


def texts(model: Transformer) -> tuple:
    return model.read(samples.prompt("negative", 5)), model.read(samples.prompt("positive", 9))


def both(latents: torch.Tensor) -> torch.Tensor:
    return latents.expand(2, -1, -1, -1, -1)


def off(made: torch.Tensor | None, expected: torch.Tensor | None) -> float:
    assert made is not None and expected is not None
    return float((made.cpu() - expected).norm() / expected.norm())


@pytest.mark.parametrize("precision", ["bf16", "int8"])
@torch.inference_mode()
def test_two_branches(precision: weights.Precision) -> None:
    if precision == "int8":
        pytest.importorskip("torchao")
    model = on_gpu(precision)
    heard, expected = (
        each(both(samples.latents("noise", 6)), T, texts(each), Alone(PLACE, 6))
        for each in (model, transformer())
    )
    assert off(heard, expected) < 2e-2


@pytest.mark.parametrize("codec", [BF16, replace(QVG, clusters=64)], ids=["BF16", "QVG"])
@torch.inference_mode()
def test_a_shared_history(codec: CodecConfig) -> None:
    new, said = both(samples.latents("noise", 6)[:, :, 3:]), []
    for model in (on_gpu(), transformer()):
        cache = KVCache(GEOMETRY, codec, frames_per_block=3, device=model.device)
        Sampler(model).remember(cache, samples.latents("clean", 3))
        said.append(model(new, T, texts(model), AfterHistory(PLACE, cache)))
    assert off(*said) < (2e-2 if codec is BF16 else 5e-2)


@torch.inference_mode()
def test_the_same_steps_again_to_the_last_bit() -> None:
    model = on_gpu()
    made = []
    for _ in range(2):
        cache = KVCache(GEOMETRY, replace(QVG, clusters=16), frames_per_block=3, device="cuda")
        sampler = Sampler(model)
        sampler.remember(cache, samples.latents("clean", 3))
        negative, positive = texts(model)
        guidance = Guidance(positive, negative, 4.0)
        noise = samples.latents("noise", 2)
        made.append(sampler.denoise(noise, schedule.uniform(3), guidance, lambda step, steps: None, cache))
    assert torch.equal(*made)
