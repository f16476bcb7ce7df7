"""What a run is said to cost, against what a cache of that run reports."""

import dataclasses
import random

import pytest
import torch

from backends import registry
from backends.memory_plan import blocks_within, codec_for, held_bytes, most_bytes, plan
from backends.runtime import hardware
from backends.runtime.hardware import DeviceInfo
from backends.sizes import memory_size
from qvg.cache import KVCache
from qvg.config import BF16, QVG
from qvg.policy import CachePolicy, cache_bytes
from tests.fake_backend import SPEC

GIB = 1 << 30
POCKET, SELF_FORCING, LONGCAT = map(registry.find, ("pocket", "self_forcing", "longcat"))
PAPER = CachePolicy(every=8)  # spans of 24 latents
FEW = dataclasses.replace(QVG, clusters=64)


def device(gib: float, kind="cuda") -> DeviceInfo:
    return DeviceInfo("Card", kind, int(gib * GIB), 8, "bfloat16", "cudnn", ())


def test_bytes_are_those_of_the_policy():
    made = plan(SELF_FORCING, QVG, PAPER, 60, None)
    assert (made.kv_bytes, made.bf16_bytes) == cache_bytes(SELF_FORCING.geometry, QVG, PAPER, 60, 3)
    assert made.bf16_bytes == pytest.approx(48.20 * GIB, rel=1e-3)
    assert made.fits is None
    assert made.blocks_that_fit is None
    assert made.sentence == f"Needs {memory_size(made.needs_bytes)}."


@pytest.mark.parametrize(
    "policy",
    [
        CachePolicy(every=2),
        CachePolicy(every=3, sink=1, recent=1, window=6),
        CachePolicy(every=2, device_bytes=0),
        CachePolicy(every=1, device_bytes=200_000),
        CachePolicy(every=3, grows=True, fine=True),
        CachePolicy(every=3, sink=1, recent=1, window=4, grows=True),
    ],
)
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
        # Spans in the host's memory are read through room for two of a layer.
        span = 2 * BF16.stored_bytes(1, 1, policy.every * block.shape[2], block.shape[3])
        held.append(stats.device_bytes + stats.scratch_bytes + (2 * span if stats.host_bytes else 0))
    made = plan(SPEC, BF16, policy, blocks, None)
    assert made.needs_bytes - SPEC.working_bytes == max(held)
    assert made.kv_bytes == stats.stored_bytes
    assert made.host_bytes == stats.host_bytes


def test_the_most_is_that_of_every_block():
    numbers = random.Random(1)
    for _ in range(150):
        every, recent, blocks = numbers.randint(1, 6), numbers.randint(0, 3), numbers.randint(1, 40)
        policy = CachePolicy(
            every=every,
            sink=numbers.randint(0, 4),
            recent=recent,
            window=numbers.choice([None, every + recent + numbers.randint(0, 12)]),
            device_bytes=numbers.choice([None, 0, 300_000]),
            grows=numbers.choice([False, True]),
        )
        policy = dataclasses.replace(policy, fine=policy.grows and numbers.choice([False, True]))
        spec = numbers.choice([SPEC, POCKET, LONGCAT])
        held = [held_bytes(spec, FEW, policy, block) for block in range(1, blocks + 1)]
        assert most_bytes(spec, FEW, policy, blocks) == max(held), (spec.id, policy, blocks)
        for room in (0, max(held) - 1, max(held), numbers.choice(held)):
            fits = next((made for made, count in enumerate(held) if count > room), blocks)
            assert blocks_within(spec, FEW, policy, blocks, room) == fits, (spec.id, policy, blocks)


def test_a_run_that_fits():
    made = plan(SELF_FORCING, QVG, PAPER, 7, device(24))
    assert made.fits
    assert made.blocks_that_fit == 7
    assert made.sentence.endswith("of this GPU's 24.0 GiB: fits.")


def test_a_run_that_does_not_says_where_it_ends_and_what_would_fit():
    made = plan(SELF_FORCING, BF16, PAPER, 60, device(32))
    assert made.fits is False
    assert 0 < made.blocks_that_fit < 60
    frame = SELF_FORCING.video_frames(made.blocks_that_fit) + 1
    assert f"of this GPU's 32.0 GiB: would run out at frame {frame}; QVG INT2 fits." in made.sentence
    assert plan(SELF_FORCING, BF16, PAPER, made.blocks_that_fit, device(32)).fits
    assert not plan(SELF_FORCING, BF16, PAPER, made.blocks_that_fit + 1, device(32)).fits


@pytest.mark.parametrize(
    ("gib", "codec", "policy", "counted"),
    [
        (31.0, BF16, CachePolicy(every=1), 87),
        (31.0, QVG, PAPER, 462),
        (31.0, FEW, CachePolicy(every=1), 546),
        (23.2, BF16, CachePolicy(every=1), 57),
        (23.2, QVG, PAPER, 261),
        (23.2, FEW, CachePolicy(every=1), 351),
    ],
)
def test_no_more_latents_are_promised_than_were_counted(gib, codec, policy, counted):
    """What a 32 GB and a 24 GB card hold of Self-Forcing, counted by hand without decoding beside denoising
    (0.9 GiB) and without room for the last block (0.8); spans of 24 latents make steps of 24."""
    made = plan(SELF_FORCING, codec, policy, 341, device(gib))
    latents = 3 * made.blocks_that_fit
    step = 3 * policy.every
    assert counted - 9 - 2 * step < latents <= counted


@pytest.mark.parametrize("gib", [31.8, 23.6], ids=["RTX 5090", "RTX 4090"])
def test_180_latents_in_two_bits_fit_cards_that_bf16_does_not(gib):
    made = plan(SELF_FORCING, QVG, PAPER, 60, device(gib))
    without = plan(SELF_FORCING, BF16, PAPER, 60, device(gib))
    assert made.fits
    assert made.kv_bytes == pytest.approx(9.67 * GIB, rel=1e-3)
    frame = SELF_FORCING.video_frames(without.blocks_that_fit) + 1
    assert made.sentence == (
        f"Needs 21.4 GiB of this GPU's {gib} GiB: fits. "
        f"BF16 would need 60.0 GiB and run out at frame {frame}."
    )
    assert f"would run out at frame {frame}; QVG INT2 fits." in without.sentence


def test_a_small_card_holds_any_length_with_the_hosts_memory():
    spilling = dataclasses.replace(PAPER, device_bytes=1 * GIB)
    made = plan(SELF_FORCING, QVG, spilling, 341, device(23.6))
    assert made.fits
    assert made.kv_bytes == plan(SELF_FORCING, QVG, PAPER, 341, device(23.6)).kv_bytes
    # A span of all layers is 0.92 GiB: one stays.
    assert made.host_bytes == pytest.approx(41 * 30 * 31.49 * 2**20, rel=1e-3)
    assert made.sentence.endswith("fits. Keeps 37.8 GiB of history in the host's memory.")
    # Where the device is the host, nothing is elsewhere.
    same = plan(SELF_FORCING, QVG, spilling, 341, device(23.6, "cpu"))
    assert not same.fits
    assert same.host_bytes == 0


def test_a_history_made_again_goes_to_the_host_whole():
    away = CachePolicy(every=1, device_bytes=0)
    made = plan(LONGCAT, QVG, away, 4, device(80))
    kept = plan(LONGCAT, QVG, LONGCAT.policy, 4, device(80))
    assert made.host_bytes == made.kv_bytes == kept.kv_bytes
    # All 48 layers read through room for two.
    assert dict(made.parts)["KV cache"] * 24 == dict(kept.parts)["KV cache"] == kept.kv_bytes


def test_on_a_large_card_bf16_is_only_more():
    made = plan(SELF_FORCING, QVG, PAPER, 60, device(80))
    assert made.sentence.endswith("fits. BF16 would need 60.0 GiB.")


def test_the_parts_are_what_is_needed():
    made = plan(SELF_FORCING, QVG, PAPER, 60, device(32))
    assert dict(made.parts)["transformer"] == pytest.approx(2.64 * GIB, rel=2e-3)
    assert sum(size for _, size in made.parts) == made.needs_bytes
    assert plan(SPEC, QVG, SPEC.policy, 1, None).parts[0] == ("model", SPEC.working_bytes)


def test_reading_the_prompt_counts_where_the_gpu_does_it():
    def needs(memory, kind="cuda"):
        return plan(small, QVG, CachePolicy(every=1), 1, device(memory, kind)).needs_bytes

    small = dataclasses.replace(SELF_FORCING, working_bytes=1 * GIB)
    assert needs(24) == SELF_FORCING.prompt_bytes
    assert needs(8) == needs(64, "cpu") < 3 * GIB


def test_a_run_no_codec_saves_says_how_long_it_may_be():
    made = plan(SELF_FORCING, QVG, PAPER, 341, device(24))
    assert f"; {made.blocks_that_fit} blocks fit." in made.sentence


def test_a_model_that_is_too_large_says_so():
    made = plan(SELF_FORCING, QVG, PAPER, 7, device(4, "cpu"))
    assert made.blocks_that_fit == 0
    assert "of this machine's 4.0 GiB: Self-Forcing does not fit here at any length." in made.sentence


@pytest.mark.parametrize(
    ("backend_id", "disk"), [("self_forcing", "2.8"), ("worldplay", "10.6"), ("longcat", "27.2")]
)
def test_what_loading_takes_is_said_before(monkeypatch, backend_id, disk):
    spec = registry.find(backend_id)
    monkeypatch.setattr(hardware, "ram_bytes", lambda: 64 * GIB)
    said = f"Loading needs about 3.0 GB of RAM and, the first time, {disk} GB of disk for a copy in BF16."
    assert plan(spec, QVG, spec.policy, 2, None).loading == said
    assert plan(spec, QVG, spec.policy, 2, device(80)).loading == said
    # The CPU reads the prompt where the GPU is too small for it.
    assert "about 14.4 GB of RAM" in plan(spec, QVG, spec.policy, 2, device(12)).loading
    monkeypatch.setattr(hardware, "ram_bytes", lambda: 8 * 10**9)
    little = plan(spec, QVG, spec.policy, 2, device(12)).loading
    assert little.endswith("; this machine has 8.0 GB of RAM: close other programs, and add swap.")
    assert plan(spec, QVG, spec.policy, 2, device(64, "cpu")).loading == ""


def test_a_model_that_travels_with_the_program_loads_without_a_word():
    pocket = registry.find("pocket")
    assert plan(pocket, QVG, pocket.policy, 2, device(24)).loading == ""


def test_codecs_have_the_generators_number_of_centroids():
    few = dataclasses.replace(SPEC, clusters=64)
    assert codec_for(few, "QVG INT2") == dataclasses.replace(QVG, clusters=64)
    assert codec_for(SPEC, "QVG INT2") is not BF16
    assert codec_for(few, "BF16") is BF16


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 KiB"),
        (840 << 10, "840 KiB"),
        (640 << 20, "640 MiB"),
        (GIB, "1.0 GiB"),
        (int(23.64 * GIB), "23.6 GiB"),
    ],
)
def test_bytes_in_words(count, words):
    assert memory_size(count) == words


def test_bytes_with_more_digits():
    assert memory_size(int(23.64 * GIB), digits=2) == "23.64 GiB"
    assert memory_size(640 << 20, digits=2) == "640.0 MiB"
