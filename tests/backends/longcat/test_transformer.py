"""The transformer against the authors' own, for the same tiny weights: forward, conditioned, cached, BF16."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backends.longcat import transformer as model_file
from backends.longcat.attention import AfterHistory, Alone, Place
from backends.longcat.sampler import Sampler
from backends.longcat.transformer import LongCatConfig, Transformer
from qvg import BF16, QVG, CacheGeometry, CachePolicy, KVCache
from tests.backends.longcat import samples
from tests.backends.longcat.recorded import names, recorded, transformer
from tests.backends.longcat.samples import COLUMNS, CONFIG, ROWS

PLACE = Place(CONFIG.rope_pairs, ROWS, COLUMNS)
GEOMETRY = CacheGeometry(CONFIG.layers, CONFIG.heads, CONFIG.head_dim, ROWS * COLUMNS)
T = torch.tensor(731.0)
EXACT = {"atol": 2e-5, "rtol": 2e-5}


class Exact:
    """A history in FP32, for `Transformer`: kept with `keep`, then attended to."""

    def __init__(self) -> None:
        self.kept: list[tuple[Tensor, Tensor]] = []
        self.keep = True

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        seen = 0
        if self.keep:
            self.kept.append((k.clone(), v.clone()))
        else:
            past_k, past_v = (x.expand(len(q), -1, -1, -1) for x in self.kept[layer])
            seen = past_k.shape[2] // (ROWS * COLUMNS)
            k, v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
        q, k = PLACE.rotate_(q, seen), PLACE.rotate_(k, 0)
        return F.scaled_dot_product_attention(q, k, v)


def texts(model: Transformer) -> tuple:
    return model.read(samples.prompt("negative", 5)), model.read(samples.prompt("positive", 9))


def both(latents: Tensor) -> Tensor:
    return latents.expand(2, -1, -1, -1, -1)


@pytest.fixture
def model() -> Transformer:
    return transformer()


def test_names_and_shapes_are_the_published_models() -> None:
    with torch.device("meta"):
        whole = Transformer(LongCatConfig())
    ours = {name: tuple(tensor.shape) for name, tensor in whole.state_dict().items()}
    assert ours == names()
    assert len(ours) == 1022
    assert sum(tensor.numel() for tensor in whole.state_dict().values()) == 13_581_071_424


def test_the_published_config_is_the_default(caplog: pytest.LogCaptureFixture) -> None:
    published = {
        "in_channels": 16,
        "hidden_size": 4096,
        "depth": 48,
        "num_heads": 32,
        "caption_channels": 4096,
        "mlp_ratio": 4,
        "adaln_tembed_dim": 512,
        "frequency_embedding_size": 256,
        "patch_size": [1, 2, 2],
        "enable_bsa": False,
        "text_tokens_zero_pad": True,
        "cp_split_hw": None,
    }
    assert LongCatConfig.from_json(published) == LongCatConfig()
    assert LongCatConfig().rope_pairs == (22, 21, 21)
    more = {
        "_class_name": "LongCatVideoTransformer3DModel",
        "_diffusers_version": "0.35.1",
        "bsa_params": {"chunk_3d_shape_k": [4, 4, 4], "chunk_3d_shape_q": [4, 4, 4], "sparsity": 0.9375},
        "enable_flashattn2": True,
        "enable_flashattn3": False,
        "enable_xformers": False,
        "out_channels": 16,
    }
    with caplog.at_level("WARNING"):
        assert LongCatConfig.from_json({**published, **more}) == LongCatConfig()
        assert not caplog.records
        assert LongCatConfig.from_json({**published, "new_in_2027": 3}) == LongCatConfig()
    assert "new_in_2027" in caplog.text
    # What it does not say is as in upstream's constructor.
    assert LongCatConfig.from_json({"text_tokens_zero_pad": True}) == LongCatConfig()
    assert LongCatConfig.from_json({"text_tokens_zero_pad": True, "depth": 3}).layers == 3
    for wrong in ({"depth": "many"}, {"depth": 0}, {"_class_name": "LongCatVideoAvatarTransformer3DModel"}):
        with pytest.raises(ValueError, match=r"is no size|not a LongCatVideoTransformer3DModel"):
            LongCatConfig.from_json({**published, **wrong})
    with pytest.raises(ValueError, match="only dense attention"):
        LongCatConfig.from_json({**published, "enable_bsa": True})
    # Upstream's constructor and its published file disagree about this one: it is never guessed.
    del published["text_tokens_zero_pad"]
    with pytest.raises(KeyError):
        LongCatConfig.from_json(published)


@pytest.mark.parametrize("zero_pad", [True, False])
def test_two_branches_of_padded_text(zero_pad: bool) -> None:
    model = samples.transformer(replace(CONFIG, zero_pad=zero_pad))
    heard = model(both(samples.latents("noise", 6)), T, texts(model), Alone(PLACE, 6))
    torch.testing.assert_close(heard, recorded(f"forward/zero_pad={zero_pad}"), **EXACT)


def test_pieces_change_nothing(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "TOKENS_AT_ONCE", 37)
    monkeypatch.setattr("backends.longcat.attention.TOKENS_AT_ONCE", 50)
    heard = model(both(samples.latents("noise", 6)), T, texts(model), Alone(PLACE, 6))
    torch.testing.assert_close(heard, recorded("forward/zero_pad=True"), **EXACT)


@pytest.mark.parametrize("frames", [1, 3])
def test_condition_frames_go_first_and_by_themselves(model: Transformer, frames: int) -> None:
    """Upstream does both in one call, with a mask; what it says of the condition frames is ours too."""
    expected = recorded(f"conditioned/{frames}")
    history = Exact()
    clean = model(samples.latents("clean", frames), torch.zeros(()), None, history)
    torch.testing.assert_close(both(clean), expected[:, :, :frames], **EXACT)
    history.keep = False
    new = both(samples.latents("noise", 6)[:, :, frames:])
    heard = model(new, T, texts(model), history)
    torch.testing.assert_close(heard, expected[:, :, frames:], **EXACT)


def test_what_is_remembered_is_upstreams_cache(model: Transformer) -> None:
    history = Exact()
    model(samples.latents("clean", 3), torch.zeros(()), None, history, output=False)
    assert len(history.kept) == CONFIG.layers
    for layer in (0, 3):
        for name, x in zip("kv", history.kept[layer], strict=True):
            torch.testing.assert_close(x[:, :, ::5], recorded(f"memory/{name}{layer}"), **EXACT)
    history.keep = False
    heard = model(both(samples.latents("noise", 6)[:, :, 3:]), T, texts(model), history)
    torch.testing.assert_close(heard, recorded("cached/3"), **EXACT)


@pytest.mark.parametrize(("codec", "most"), [(BF16, 0.01), (QVG, 0.5)])
def test_a_history_in_the_cache(model: Transformer, codec, most: float) -> None:
    cache = KVCache(GEOMETRY, codec, CachePolicy(), frames_per_block=3)
    Sampler(model).remember(cache, samples.latents("clean", 3))
    assert cache.frames == 3
    heard = model(both(samples.latents("noise", 6)[:, :, 3:]), T, texts(model), AfterHistory(PLACE, cache))
    expected = recorded("cached/3")
    assert (heard - expected).norm() / expected.norm() < most


def test_bf16_computes_time_and_modulation_in_fp32_and_rounds_the_timestep() -> None:
    small = samples.transformer(dtype=torch.bfloat16)
    noise = both(samples.latents("noise", 6))
    heard = small(noise, torch.tensor(991.0), texts(small), Alone(PLACE, 6))
    expected = recorded("forward/bfloat16")
    assert (heard - expected).norm() / expected.norm() < 6e-3
    assert torch.equal(heard, small(noise, torch.tensor(992.0), texts(small), Alone(PLACE, 6)))
    assert not torch.equal(heard, small(noise, torch.tensor(996.0), texts(small), Alone(PLACE, 6)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("padding", [1, 3, 23, 400])
def test_a_few_tokens_stand_for_all_padding(dtype: torch.dtype, padding: int) -> None:
    attention = samples.transformer().blocks[0].cross_attn.to(dtype)
    text = samples.values("text", (9, CONFIG.width)).to(dtype)
    short, long = attention.words(text, padding), attention.words(F.pad(text, (0, 0, 0, padding)), 0)
    assert short.k.shape[2] <= 12
    q = 3 * samples.values("query", (1, 2, 50, 128)).to(dtype)
    expected = F.scaled_dot_product_attention(q.float(), long.k.float(), long.v.float())
    assert short.bias is not None
    heard = F.scaled_dot_product_attention(q.float(), short.k.float(), short.v.float(), short.bias.float())
    torch.testing.assert_close(heard, expected, atol=2e-5, rtol=2e-5)


def test_a_full_prompt_has_no_padding(model: Transformer) -> None:
    assert all(words.bias is None for words in model.read(samples.prompt("long", CONFIG.text_length)))
