"""A run from request to last frame: what is told, how it ends, and that it leaves nothing behind."""

import errno
import itertools
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from backends.base import Request
from backends.camera import CameraMove
from backends.events import Done, Failed, Progress, Update
from backends.runtime.errors import explain
from backends.runtime.jobs import Side
from backends.runtime.peak_memory import PeakMemory
from backends.runtime.session import MARKS, Session
from qvg.config import BF16, RTN
from tests.fake_backend import SPEC, STEPS, FakeBackend

ALONE = (Side("BF16", BF16, SPEC.policy),)
PAIR = (*ALONE, Side("RTN", RTN, SPEC.policy))


def never() -> bool:
    return False


def run_session(backend, request, sides, stop, clock=time.perf_counter, **options):
    """The events of a video that is not extended afterwards."""
    return Session(backend, sides, "cpu", clock).run(request, stop, **options)


def run(backend, prompt="", stop=never, sides=ALONE, **options):
    request = Request(prompt=prompt, **{"blocks": 3, **options})
    return run_session(backend, request, sides, stop)


def test_blocks_in_order_then_done():
    backend, progress = FakeBackend(), []
    request = Request(blocks=3)
    *updates, done = run_session(backend, request, ALONE, never, emit=progress.append)
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
        (
            "raise=1",
            "An error in block 2 of 3: RuntimeError: a made-up fault. What was made so far is kept; try",
        ),
        ("oom=1", "Out of memory in block 2 of 3, with 12 KiB of KV cache. Choose a smaller KV cache"),
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
    for event in run_session(FakeBackend(), Request(blocks=3), ALONE, never, clock):
        now[0] += 100.0
        times.append(event)
    assert [update.block_ms for update in times[:-1]] == [1000.0] * 3
    assert times[-1].seconds > 300


class Recording(FakeBackend):
    """Keeps every cache and every move."""

    def __init__(self):
        super().__init__()
        self.caches, self.moves = [], []

    def open(self, request, cache, tick):
        rollout = super().open(request, cache, tick)
        self.caches.append(cache)
        step = rollout.step
        rollout.step = lambda move=None: (self.moves.append(move), step(move))[1]
        return rollout


def test_two_sides_take_turns_over_caches_of_their_own():
    backend = Recording()
    *updates, done = run(backend, sides=PAIR, blocks=4)
    assert [(update.segment.index, update.side) for update in updates] == [
        (block, side) for block in range(4) for side in range(2)
    ]
    assert [cache.codec for cache in backend.caches] == [BF16, RTN]
    assert (done.blocks, done.frames) == (4, SPEC.video_frames(4))
    assert all(cache.stats().stored_bytes == 0 for cache in backend.caches)
    last = {update.side: update.stats for update in updates}
    assert last[0].bf16_bytes == last[1].bf16_bytes
    assert "codes" in last[1].parts
    assert "codes" not in last[0].parts


def test_a_side_makes_what_it_makes_alone():
    def made(sides):
        return [update for update in run(FakeBackend(), sides=sides, blocks=4) if isinstance(update, Update)]

    together = made(sides=PAIR)
    for number, side in enumerate(PAIR):
        alone = [
            update for update in run(FakeBackend(), sides=(side,), blocks=4) if isinstance(update, Update)
        ]
        paired = [update for update in together if update.side == number]
        for one, other in zip(alone, paired, strict=True):
            assert np.array_equal(one.segment.frames, other.segment.frames)


def test_a_side_that_must_end_early_leaves_the_other_to_go_on():
    sides = (
        Side("BF16", BF16, SPEC.policy, ends_after=1),
        PAIR[1],
        Side("BF16", BF16, SPEC.policy, ends_after=0),
    )
    *updates, done = run(FakeBackend(), sides=sides, blocks=3)
    assert [(update.segment.index, update.side) for update in updates] == [(0, 0), (0, 1), (1, 1), (2, 1)]
    assert (done.stopped, done.blocks) == (False, 3)


@pytest.mark.parametrize(("prompt", "stop_after"), [("raise=1", None), ("", 1 + 2 * STEPS + STEPS + 1)])
def test_what_ends_one_side_ends_both_and_releases_both(prompt, stop_after):
    backend, asked = Recording(), itertools.count()
    *updates, last = run(backend, prompt, lambda: next(asked) == stop_after, PAIR)
    assert len(updates) == (2 if stop_after is None else 3)
    assert isinstance(last, Failed) if stop_after is None else last.stopped
    assert all(cache.stats().stored_bytes == 0 for cache in backend.caches)


def test_progress_says_whose_turn_it_is():
    progress = []
    list(run_session(FakeBackend(), Request(blocks=2), PAIR, never, emit=progress.append))
    assert [(each.block, each.side) for each in progress[::STEPS]] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_progress_may_be_told_and_stop_heard_while_a_rollout_is_opened():
    class Slow(FakeBackend):
        def open(self, request, cache, tick):
            tick(0, 2)
            return super().open(request, cache, tick)

    progress = []
    list(run_session(Slow(), Request(blocks=1), PAIR, never, emit=progress.append))
    assert progress[:2] == [Progress(0, 1, 0, 2, 0), Progress(0, 1, 0, 2, 1)]
    asked = itertools.count()
    (done,) = run_session(Slow(), Request(blocks=1), PAIR, lambda: next(asked) == 1)
    assert done.stopped


def test_every_side_is_steered_the_same_way_and_the_update_says_how():
    backend, moves = Recording(), iter([None, CameraMove(("w",)), CameraMove()])
    *updates, _ = run_session(backend, Request(blocks=3), PAIR, never, steer=lambda: next(moves))
    assert backend.moves == [None, None, CameraMove(("w",)), CameraMove(("w",)), CameraMove(), CameraMove()]
    assert [update.move for update in updates] == backend.moves


def test_an_update_says_what_the_process_holds():
    for update in run(FakeBackend(), blocks=2):
        if isinstance(update, Update):
            assert 1 << 24 < update.memory_bytes <= update.peak_bytes * 1.05


class Plain(FakeBackend):
    """Its rollouts can only step."""

    class Rollout:
        def __init__(self, rollout):
            self.step, self.notes = rollout.step, rollout.notes

    def open(self, request, cache, tick):
        return self.Rollout(super().open(request, cache, tick))


def on(session, blocks, first_block=0, stop=never, keep=True, progress=None, **options):
    """The frames of every side, and how it ended."""
    request = Request(blocks=blocks, **options)
    emit = (lambda each: None) if progress is None else progress.append
    *updates, last = session.run(request, stop, first_block=first_block, keep=keep, emit=emit)
    return [
        np.concatenate([update.segment.frames for update in updates if update.side == side])
        for side in range(len(session.sides))
    ], last


def test_a_kept_video_goes_on_as_if_it_had_been_longer():
    whole, _ = on(Session(FakeBackend(), PAIR), 7)
    backend = FakeBackend()
    session = Session(backend, PAIR)
    begun, done = on(session, 4)
    assert done.kept_bytes == session.held_bytes > 0
    assert backend.last.frames == 8
    progress = []
    rest, done = on(session, 7, first_block=4, keep=False, progress=progress)
    for one, two, both in zip(begun, rest, whole, strict=True):
        assert np.array_equal(np.concatenate([one, two]), both)
    assert {each.block for each in progress} == {4, 5, 6}
    assert (done.blocks, done.frames, done.kept_bytes) == (7, SPEC.video_frames(7), 0)
    assert done.freed_bytes > 0
    assert backend.last.frames == 0


@pytest.mark.parametrize("back", [1, MARKS, MARKS + 1])
@pytest.mark.parametrize("resumable", [True, False])
def test_blocks_are_taken_back_by_marks_or_by_making_the_video_again(back, resumable):
    whole, _ = on(Session(FakeBackend(), PAIR), 6)
    session, progress = Session(FakeBackend() if resumable else Plain(), PAIR), []
    on(session, 5)
    rest, _ = on(session, 6, first_block=5 - back, progress=progress)
    for made, both in zip(rest, whole, strict=True):
        assert np.array_equal(made, both[SPEC.video_frames(5 - back) :])
    again = min(each.block for each in progress)
    assert again == (5 - back if resumable and back <= MARKS else 0)


def test_other_noise_from_a_block_on():
    def made(reseeds):
        return on(Session(FakeBackend(), PAIR), 4, reseeds=reseeds)[0]

    plain, other = made(()), made(((2, 99),))
    kept = SPEC.video_frames(2)
    for one, two in zip(plain, other, strict=True):
        assert np.array_equal(one[:kept], two[:kept])
        assert not np.array_equal(one[kept:], two[kept:])
    session = Session(FakeBackend(), PAIR)
    on(session, 4)
    retaken, _ = on(session, 4, first_block=2, reseeds=((2, 99),))
    for one, two in zip(retaken, other, strict=True):
        assert np.array_equal(one, two[kept:])


def test_a_side_that_ended_early_stays_ended_when_the_video_goes_on():
    sides = (Side("BF16", BF16, SPEC.policy, ends_after=2), PAIR[1])
    session = Session(FakeBackend(), sides)
    on(session, 3)
    *updates, _ = session.run(Request(blocks=5), never, first_block=3, keep=True)
    assert [(update.segment.index, update.side) for update in updates] == [(3, 1), (4, 1)]


def test_what_is_stopped_or_fails_is_not_kept():
    for stop, prompt in ((lambda: True, ""), (never, "raise=3")):
        session = Session(FakeBackend(), ALONE)
        on(session, 2, prompt=prompt)
        events = list(session.run(Request(blocks=4, prompt=prompt), stop, keep=True, first_block=2))
        assert session.held_bytes == 0
        assert isinstance(events[-1], Failed) or events[-1].freed_bytes > 0


def test_noise_is_changed_only_where_a_generator_can():
    backend = Plain()
    backend.spec = replace(SPEC, resumable=False)
    (failed,) = run(backend, reseeds=((1, 2),))
    assert failed.message == "Fake cannot draw other noise inside a video: make a new one."


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (MemoryError(), "Out of memory while loading."),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
            "Out of memory",
        ),
        (torch.OutOfMemoryError("CUDA out of memory."), "Out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "add swap, and try again; the files are not at"),
        (ValueError("K has 1561 tokens;\n  commit full frames"), "K has 1561 tokens; commit full frames"),
        (KeyError("blocks.0"), "An error while loading: KeyError: 'blocks.0'. What was made"),
        (RuntimeError(), "An error while loading: RuntimeError. What was made"),
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
