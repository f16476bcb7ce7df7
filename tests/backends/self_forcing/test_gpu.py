"""Self-Forcing's two streams on a CUDA device, tiny and with random weights."""

import numpy as np
import pytest
import torch

from backends.base import PromptChange, Request
from backends.self_forcing import load, rollout
from backends.self_forcing.models import COMPILE
from backends.wan import vae
from qvg import BF16, CachePolicy, KVCache

pytest.importorskip("diffusers")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
DEVICE = torch.device("cuda", 0)


@pytest.fixture(scope="module")
def backend():
    return load.load_random(DEVICE, lambda text: None, tiny=True)


def make_cache(backend):
    return KVCache(backend.spec.geometry, BF16, CachePolicy(every=2), frames_per_block=3, device=DEVICE)


def video(backend, **request):
    made = backend.open(Request(prompt="a fox", **request), make_cache(backend), lambda step, steps: None)
    segments = list(iter(made.step, None))
    assert all(segment.ms["denoise"] > 0 and segment.ms["decode"] > 0 for segment in segments)
    return np.concatenate([segment.frames for segment in segments])


def test_decoding_beside_denoising_is_the_whole_video_decoded_at_once(backend, monkeypatch):
    blocks = []
    start = rollout.Decoding.start

    def note(self, latents):
        blocks.append(latents.clone())
        start(self, latents)

    monkeypatch.setattr(rollout.Decoding, "start", note)
    made = video(backend, blocks=4)
    stream = backend.models.vae.stream()
    whole = torch.cat([stream.decode(block) for block in blocks], 1)
    assert np.array_equal(made, vae.to_pixels(whole[0]).cpu().numpy())


def test_launching_ahead_changes_nothing(backend, monkeypatch):
    ahead = video(backend, blocks=4)
    assert np.array_equal(ahead, video(backend, blocks=4))
    monkeypatch.setattr(rollout.Sampler, "launch", lambda self: None)
    assert np.array_equal(ahead, video(backend, blocks=4))


def test_prompts_change_and_clips_go_on(backend):
    changes = (PromptChange(2, "an owl"),)
    plain, changed = video(backend, blocks=3), video(backend, blocks=3, changes=changes)
    assert np.array_equal(plain[:21], changed[:21])
    assert not np.array_equal(plain[21:], changed[21:])
    clip = np.random.default_rng(0).integers(0, 256, (21, 64, 96, 3), np.uint8)
    assert len(video(backend, blocks=2, clip=clip)) == 21 + 24


def test_no_pass_waits_for_the_device(backend):
    """Neither the model nor the cache copies anything to or from the host while a block is denoised."""
    made = backend.open(Request(prompt="a fox", blocks=4), make_cache(backend), lambda step, steps: None)
    made.step()  # kernels are built
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        latents = made._sampler.generate(lambda step, steps: None)
        made._sampler.absorb(latents)
        made._sampler.launch()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_compiled(backend, monkeypatch):
    plain = video(backend, blocks=2)
    monkeypatch.setenv(COMPILE, "1")
    compiled = load.load_random(DEVICE, lambda text: None, tiny=True)
    difference = np.abs(plain.astype(float) - video(compiled, blocks=2))
    assert difference.mean() < 4
