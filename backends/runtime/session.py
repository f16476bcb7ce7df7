"""Session: one video, from request to last frame, as a generator of events.

A worker process or a `@spaces.GPU` function iterates over it. A video has one or more sides: the same request
over separate caches, a block of each in turn, from one loaded model. Progress is reported by a callback,
`emit`, because it cannot be yielded from inside a rollout; finished blocks are yielded.
"""

from __future__ import annotations

import gc
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import torch

from backends.base import Backend, Request, Resumable, Rollout, Segment, Stopped, Tick
from backends.camera import CameraMove
from backends.events import Done, Event, Failed, Progress, Update
from backends.runtime.errors import explain
from backends.runtime.jobs import Side
from backends.runtime.peak_memory import PeakMemory, memory_now
from backends.sizes import memory_size
from backends.validation import check
from qvg import CacheStats, KVCache, Snapshot, empty_host_cache, interruptible

MARKS = 2  # blocks that can be undone without generating the video again
MARK_BYTES = 256 << 20  # the largest copy of a cache's full-precision blocks that is worth it


class Session:
    """A video that can be extended, and the state of its sides between runs."""

    def __init__(
        self,
        backend: Backend,
        sides: Sequence[Side],
        device: torch.device | str = "cpu",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Creates an empty session. `device` is the backend's; `clock` returns seconds."""
        self.sides = tuple(sides)
        self._backend = backend
        self._device = torch.device(device)
        self._clock = clock
        self._takes: list[_Take] = []
        self._stop: Callable[[], bool] = lambda: False
        self._emit: Callable[[Progress], None] = lambda progress: None
        self._blocks = 0  # requested
        self._turn = 0

    @property
    def held_bytes(self) -> int:
        """Returns the bytes of all caches."""
        return sum(take.held_bytes for take in self._takes)

    def continue_as(self, sides: Sequence[Side]) -> bool:
        """Makes `sides` the next run's, if their caches are the ones here. Returns whether they are."""
        if [side.cache for side in sides] != [side.cache for side in self.sides]:
            return False
        self.sides = tuple(sides)
        return True

    def close(self) -> None:
        """Releases everything. May be called several times."""
        for take in self._takes:
            take.cache.reset()
        self._takes.clear()
        free_memory()

    def run(
        self,
        request: Request,
        stop: Callable[[], bool],
        *,
        first_block: int = 0,
        keep: bool = False,
        emit: Callable[[Progress], None] = lambda progress: None,
        steer: Callable[[], CameraMove | None] = lambda: None,
    ) -> Iterator[Event]:
        """Yields an Update for each block of each side from `first_block` on, then Done or Failed.

        The blocks of `request` before `first_block` were generated here or in another session; those that are
        no longer here are generated again without being yielded. Everything is released at the end or when
        closed; with `keep`, state stays if the run ends by itself.

        `stop` is called before every denoising step and between the rounds of an encoding; `steer` before
        every block, and returns a move in place of the request's, or None.
        """
        started = self._clock()
        peak = PeakMemory(self._device)
        self._stop, self._emit, self._blocks = stop, emit, request.blocks
        stopped, failed, whole = False, None, False
        try:
            check(request, self._backend.spec)
            self._check()
            self._go_back(request, first_block)
            for update in self._make(request, first_block, steer, started, peak):
                yield update
                del update
            whole = True
        except Stopped:
            stopped = True
        except Exception as error:
            failed = self._explain(error)
        finally:
            # Also when the run is closed.
            last = self._end(keep and whole, stopped, self._clock() - started, peak)
        yield failed or last

    def _go_back(self, request: Request, first_block: int) -> None:
        """Rewinds every side to the blocks before `first_block`, or to none."""
        if not (self._takes and all(take.go_back(first_block) for take in self._takes)):
            self.close()
            for turn, side in enumerate(self.sides):
                self._turn = turn
                self._takes.append(self._open(request, side))
        for take, side in zip(self._takes, self.sides, strict=True):
            if isinstance(take.rollout, Resumable):
                take.rollout.extend(request)
            take.limit = side.blocks(request.blocks)

    def _make(
        self,
        request: Request,
        first_block: int,
        steer: Callable[[], CameraMove | None],
        started: float,
        peak: PeakMemory,
    ) -> Iterator[Update]:
        reseeds = dict(request.reseeds)
        while waiting := [take for take in self._takes if not take.over]:
            block = min(take.blocks for take in waiting)
            seen = block >= first_block
            # Every side takes the same move, whatever is pressed between their turns.
            move = steer() if seen else None
            for turn, take in enumerate(self._takes):
                if take.over or take.blocks != block:
                    continue
                self._turn = turn
                before = self._clock()
                with interruptible(self._check):
                    segment = take.step(move, reseeds.get(block))
                now = self._clock()
                if segment is None or not seen:
                    continue
                yield Update(
                    segment,
                    take.measure(),
                    (now - before) * 1e3,
                    now - started,
                    turn,
                    move,
                    memory_now(self._device),
                    peak.read(),
                )
                del segment

    def _open(self, request: Request, side: Side) -> _Take:
        spec = self._backend.spec
        cache = KVCache(
            spec.geometry,
            side.codec,
            side.policy,
            frames_per_block=spec.latents_per_block,
            device=self._device,
        )
        with interruptible(self._check):
            return _Take(cache, self._backend.open(request, cache, self._tick))

    def _check(self) -> None:
        """Raises Stopped if the run must end."""
        if self._stop():
            raise Stopped

    @property
    def _tick(self) -> Tick:
        def tick(step: int, steps: int) -> None:
            self._check()
            # A rollout may call this while it is being opened.
            block = self._takes[self._turn].blocks if self._turn < len(self._takes) else 0
            self._emit(Progress(block, self._blocks, step, steps, self._turn))

        return tick

    def _explain(self, error: Exception) -> Failed:
        block = self._takes[self._turn].blocks if self._turn < len(self._takes) else 0
        held = f"{memory_size(self.held_bytes)} of KV cache" if self.held_bytes else ""
        return explain(error, f"in block {block + 1} of {self._blocks}", held)

    def _end(self, keep: bool, stopped: bool, seconds: float, peak: PeakMemory) -> Done:
        notes = self._takes[0].rollout.notes if self._takes else ()
        blocks, frames = max(((take.blocks, take.frames) for take in self._takes), default=(0, 0))
        held, peak_bytes = self.held_bytes, peak.read()
        if not keep:
            self.close()
        return Done(
            stopped,
            blocks,
            frames,
            seconds,
            peak_bytes,
            notes,
            freed_bytes=0 if keep else held,
            kept_bytes=held if keep else 0,
            memory_bytes=memory_now(self._device),
        )


class _Mark:
    """The state of a side before one of its blocks."""

    def __init__(self, take: _Take, cache: Snapshot, rollout: object) -> None:
        self.blocks, self.frames = take.blocks, take.frames
        self.cache, self.rollout = cache, rollout


@dataclass(slots=True)
class _Take:
    """A side being generated."""

    cache: KVCache
    rollout: Rollout
    limit: int = 0  # blocks
    blocks: int = 0
    frames: int = 0
    stats: CacheStats | None = None
    marks: deque[_Mark] = field(default_factory=lambda: deque(maxlen=MARKS))

    @property
    def over(self) -> bool:
        return self.blocks >= self.limit

    @property
    def held_bytes(self) -> int:
        if self.stats is None:
            return 0
        copies = sum(mark.cache.copied_bytes for mark in self.marks)
        return self.stats.stored_bytes + self.stats.scratch_bytes + copies

    def step(self, move: CameraMove | None, reseed: int | None) -> Segment | None:
        """Returns the side's next block; None at the end."""
        if isinstance(self.rollout, Resumable):
            snapshot = self.cache.snapshot()
            if snapshot.copied_bytes <= MARK_BYTES:
                self.marks.append(_Mark(self, snapshot, self.rollout.mark()))
            if reseed is not None:
                self.rollout.reseed(reseed)
        segment = self.rollout.step(move)
        if segment is None:
            self.limit = self.blocks
            return None
        self.blocks += 1
        self.frames += len(segment.frames)
        return segment

    def measure(self) -> CacheStats:
        # Does not wait: a rollout may have launched its next work, and waiting would delay the frames.
        self.stats = self.cache.stats(wait=False)
        return self.stats

    def go_back(self, blocks: int) -> bool:
        """Rewinds to the first `blocks` blocks, or fewer if it never had as many.

        Returns whether it could.
        """
        if not isinstance(self.rollout, Resumable):
            return False
        if self.blocks <= blocks:
            return True
        while self.marks and self.marks[-1].blocks > blocks:
            self.marks.pop()
        if not self.marks or self.marks[-1].blocks != blocks:
            return False
        mark = self.marks.pop()
        self.blocks, self.frames = mark.blocks, mark.frames
        self.cache.restore(mark.cache)
        self.rollout.rewind(mark.rollout)
        return True


def free_memory() -> None:
    """Collects garbage, and returns unused GPU memory and pinned memory."""
    gc.collect()
    if torch.cuda.is_initialized():
        # After a failed kernel every call raises its error again; the owner of the process then replaces it.
        with suppress(RuntimeError):
            torch.cuda.empty_cache()
            empty_host_cache()
