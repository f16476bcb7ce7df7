"""What a run is said to cost, against what a cache of that run reports."""

import dataclasses

import pytest
import torch

from backends import registry
from backends.machine import DeviceInfo
from backends.plan import codec_for, in_words, plan
from qvg.cache import KVCache
from qvg.config import BF16, QVG
from qvg.policy import CachePolicy, cache_bytes
from tests.fake_backend import SPEC

GIB = 1 << 30
SELF_FORCING = registry.find("self_forcing")


def device(gib: float, kind="cuda") -> DeviceInfo:
    return DeviceInfo("Card", kind, int(gib * GIB), 8, "bfloat16", "cudnn", ())


def test_bytes_are_those_of_the_policy():
    made = plan(SELF_FORCING, QVG, SELF_FORCING.policy, 60, None)
    assert (made.kv_bytes, made.bf16_bytes) == cache_bytes(
        SELF_FORCING.geometry, QVG, SELF_FORCING.policy, 60, 3
    )
    assert made.bf16_bytes == pytest.approx(48.20 * GIB, rel=1e-3)
    assert made.fits is None
    assert made.blocks_that_fit is None
    assert made.sentence == f"Needs {in_words(made.needs_bytes)}."


@pytest.mark.parametrize("policy", [CachePolicy(every=2), CachePolicy(every=3, sink=1, recent=1, window=6)])
@pytest.mark.parametrize("blocks", [1, 5, 8])
def test_needs_are_the_most_a_real_cache_holds(policy, blocks):
    cache = KVCache(SPEC.geometry, BF16, policy, frames_per_block=SPEC.latents_per_block)
    block = torch.zeros(1, 1, SPEC.latents_per_block * SPEC.geometry.tokens_per_frame, SPEC.geometry.head_dim)
    held = []
    for _ in range(blocks):
        for index in range(SPEC.geometry.layers):
            cache.layer(index).stage(block.bfloat16(), block.bfloat16())
        cache.commit()
        stats = cache.stats()
        held.append(stats.stored_bytes + stats.scratch_bytes)
    made = plan(SPEC, BF16, policy, blocks, None)
    assert made.needs_bytes - SPEC.working_bytes == max(held)
    assert made.kv_bytes == stats.stored_bytes


def test_a_run_that_fits():
    made = plan(SELF_FORCING, QVG, SELF_FORCING.policy, 7, device(24))
    assert made.fits
    assert made.blocks_that_fit == 7
    assert made.sentence.endswith("of this GPU's 24.0 GiB: fits.")


def test_a_run_that_does_not_says_where_it_ends_and_what_would_fit():
    made = plan(SELF_FORCING, BF16, SELF_FORCING.policy, 60, device(32))
    assert made.fits is False
    assert 0 < made.blocks_that_fit < 60
    frame = SELF_FORCING.video_frames(made.blocks_that_fit) + 1
    assert f"of this GPU's 32.0 GiB: would run out at frame {frame}; QVG INT2 fits." in made.sentence
    assert plan(SELF_FORCING, BF16, SELF_FORCING.policy, made.blocks_that_fit, device(32)).fits
    assert not plan(SELF_FORCING, BF16, SELF_FORCING.policy, made.blocks_that_fit + 1, device(32)).fits


def test_a_run_no_codec_saves_says_how_long_it_may_be():
    made = plan(SELF_FORCING, QVG, SELF_FORCING.policy, 341, device(24))
    assert f"; {made.blocks_that_fit} blocks fit." in made.sentence


def test_a_model_that_is_too_large_says_so():
    made = plan(SELF_FORCING, QVG, SELF_FORCING.policy, 7, device(4, "cpu"))
    assert made.blocks_that_fit == 0
    assert "of this machine's 4.0 GiB: Self-Forcing does not fit here at any length." in made.sentence


def test_codecs_have_the_generators_number_of_centroids():
    few = dataclasses.replace(SPEC, clusters=64)
    assert codec_for(few, "QVG INT2") == dataclasses.replace(QVG, clusters=64)
    assert codec_for(SPEC, "QVG INT2") is not BF16
    assert codec_for(few, "BF16") is BF16


@pytest.mark.parametrize(
    ("count", "words"),
    [(0, "0 MiB"), (640 << 20, "640 MiB"), (GIB, "1.0 GiB"), (int(23.64 * GIB), "23.6 GiB")],
)
def test_bytes_in_words(count, words):
    assert in_words(count) == words
