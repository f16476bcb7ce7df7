"""A run from request to last frame: what is told, how it ends, and that it leaves nothing behind."""

import itertools

import numpy as np
import pytest
import torch

from backends.base import Done, Failed, Progress, Request, Update
from backends.failure import explain
from backends.peak import PeakMemory
from backends.session import run_session
from qvg.config import BF16
from tests.fake_backend import SPEC, STEPS, FakeBackend


def never() -> bool:
    return False


def run(backend, prompt="", stop=never, **options):
    request = Request(prompt=prompt, **{"blocks": 3, **options})
    return run_session(backend, request, BF16, SPEC.policy, stop)


def test_blocks_in_order_then_done():
    backend, progress = FakeBackend(), []
    request = Request(blocks=3)
    *updates, done = run_session(backend, request, BF16, SPEC.policy, never, emit=progress.append)
    assert [type(event) for event in updates] == [Update] * 3
    assert [update.segment.index for update in updates] == [0, 1, 2]
    assert [update.segment.start for update in updates] == [0, 5, 13]
    assert [update.stats.total_frames for update in updates] == [2, 4, 6]
    assert isinstance(done, Done)
    assert (done.stopped, done.blocks, done.frames) == (False, 3, SPEC.video_frames(3))
    assert done.notes[0] == "made by fake"
    assert done.peak_bytes > 0
    assert progress == [Progress(block, 3, step, STEPS) for block in range(3) for step in range(STEPS)]


def test_the_cache_is_empty_by_the_time_the_run_says_it_ended():
    backend = FakeBackend()
    for event in run(backend):
        released = backend.last.stats().stored_bytes == 0
        assert released == isinstance(event, Done)


def test_stop_is_seen_before_the_next_denoising_step():
    backend, asked = FakeBackend(), itertools.count()
    # Once at the start, then before each step: this stops before step 1 of block 1.
    *updates, done = run(backend, stop=lambda: next(asked) == 1 + STEPS + 1)
    assert len(updates) == 1
    assert (done.stopped, done.blocks, done.frames) == (True, 1, 5)
    assert backend.last.stats().stored_bytes == 0


def test_stop_before_the_start_opens_nothing():
    backend = FakeBackend()
    (done,) = run(backend, stop=lambda: True)
    assert (done.stopped, done.blocks, done.notes) == (True, 0, ())
    assert backend.last is None


def test_closing_the_generator_releases_the_cache():
    backend = FakeBackend()
    events = run(backend)
    next(events)
    assert backend.last.stats().stored_bytes > 0
    events.close()
    assert backend.last.stats().stored_bytes == 0


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("raise=1", "An error in block 2 of 3: RuntimeError: a made-up fault. The log says where."),
        ("oom=1", "Out of memory in block 2 of 3, with 0 MiB of KV cache. Choose a smaller KV cache"),
    ],
)
def test_an_error_is_told_in_words_and_the_cache_released(prompt, words):
    backend = FakeBackend()
    update, failed = run(backend, prompt)
    assert isinstance(update, Update)
    assert isinstance(failed, Failed)
    assert failed.message.startswith(words)
    assert "Traceback" in failed.detail
    assert "fake_backend.py" in failed.detail
    assert backend.last.stats().stored_bytes == 0
    assert isinstance(list(run(backend))[-1], Done)


def test_a_request_that_cannot_be_taken_opens_nothing():
    backend = FakeBackend()
    (failed,) = run(backend, blocks=0)
    assert failed.message == "Fake makes 1 to 400 blocks, not 0: choose a length."
    assert backend.last is None


def test_the_same_seed_makes_the_same_frames():
    def frames(seed):
        return np.concatenate(
            [e.segment.frames for e in run(FakeBackend(), seed=seed) if isinstance(e, Update)]
        )

    assert np.array_equal(frames(7), frames(7))
    assert not np.array_equal(frames(7), frames(8))


def test_a_slow_viewer_does_not_lengthen_the_blocks():
    now = [0.0]

    def clock():
        now[0] += 1.0
        return now[0]

    times = []
    for event in run_session(FakeBackend(), Request(blocks=3), BF16, SPEC.policy, never, clock):
        now[0] += 100.0
        times.append(event)
    assert [update.block_ms for update in times[:-1]] == [1000.0] * 3
    assert times[-1].seconds > 300


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "Out of memory while loading."),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            "Out of memory",
        ),
        (torch.OutOfMemoryError("CUDA out of memory."), "Out of memory"),
        (ValueError("K has 1561 tokens;\n  commit full frames"), "K has 1561 tokens; commit full frames"),
        (KeyError("blocks.0"), "An error while loading: KeyError: 'blocks.0'. The log"),
        (RuntimeError(), "An error while loading: RuntimeError. The log"),
        (RuntimeError("x" * 999), f"RuntimeError: {'x' * 300} ..."),
    ],
)
def test_errors_in_words(error, words):
    failed = explain(error, "while loading")
    assert words in failed.message
    assert type(error).__name__ in failed.detail


def test_peak_is_of_this_run_only():
    def grow():
        peak = PeakMemory(torch.device("cpu"))
        start = peak.read()
        np.ones(1 << 25)  # 256 MiB, gone at once
        return start, peak.read()

    start, peak = grow()
    if start == peak:
        pytest.skip("this kernel does not let a process reset its high-water mark")
    assert peak - start > 200 << 20
    again, _ = grow()
    assert again < peak - (200 << 20)
