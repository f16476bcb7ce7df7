"""A worker without a model: moving patterns with a readable frame number, and the real policy's cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from backends import registry
from backends.base import Segment
from backends.camera import CameraMove
from backends.events import Done, Event, Failed, Loading, Progress, Queued, Update
from backends.runtime.hardware import DeviceInfo
from backends.runtime.jobs import Job, Run, Side
from qvg.config import BF16Config
from qvg.policy import cache_bytes
from qvg.stats import CacheStats

COUNTER_BITS = 12
CELL = 16
INFO = DeviceInfo(
    name="Test CPU",
    kind="cpu",
    memory_bytes=8 << 30,
    threads=2,
    dtype="float32",
    attention="sdpa",
    reasons=(),
)


def painted(number: int, height: int, width: int, tint: int = 0) -> np.ndarray:
    """uint8 [H, W, 3]: a drifting gradient, and `number` in black and white cells on top, low bit first."""
    rows, columns = np.mgrid[:height, :width]
    frame = np.stack(
        [
            (columns + 4 * number) % 256,
            rows * 255 // height,
            np.full_like(rows, 96 + (number % 64) + 8 * tint),
        ],
        axis=-1,
    ).astype(np.uint8)
    for bit in range(COUNTER_BITS):
        frame[:CELL, bit * CELL : (bit + 1) * CELL] = 255 * (number >> bit & 1)
    return frame


def counter(frame: np.ndarray) -> int:
    """The number `painted` put into a frame."""
    middle = CELL // 2
    return sum((int(frame[middle, bit * CELL + middle].mean()) > 127) << bit for bit in range(COUNTER_BITS))


@dataclass
class FakeWorker:
    """One device: runs in order. The prompt chooses what goes wrong: `fail`, `slow`, `instant`."""

    block_seconds: float = 0.25
    steps: int = 4
    info: DeviceInfo | None = None
    killed: bool = False
    stopped: list[str] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)
    begun: list[Job] = field(default_factory=list)
    moves: list[CameraMove] = field(default_factory=list)  # steered, one a block
    held: list[tuple[str, ...]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._changed = threading.Condition()
        self._queue: list[Run] = []  # the one that runs first

    def start(self) -> None:
        self.info = INFO

    def close(self) -> None:
        pass

    def kill(self) -> None:
        """Nothing more happens, as in a program that is gone."""
        self.killed = True

    def submit(self, job: Job) -> Run:
        self.start()
        stopping = threading.Event()

        def stop(run: Run) -> None:
            self.stopped.append(run.id)
            stopping.set()
            with self._changed:
                self._changed.notify_all()

        run = Run(job, stop, self._steer, self._reorder)
        self.jobs.append(job)
        with self._changed:
            self._queue.append(run)
            self._tell_places()
        threading.Thread(target=self._serve, args=(run, stopping), daemon=True).start()
        return run

    def _steer(self, run: Run, keys: tuple[str, ...]) -> None:
        self.held.append(keys)
        self.moves.append(CameraMove(keys))

    def _reorder(self, run: Run, place: int) -> None:
        with self._changed:
            if run in self._queue[1:]:
                self._queue.remove(run)
                self._queue.insert(max(1, place), run)
                self._tell_places()

    def _tell_places(self) -> None:
        for place, run in enumerate(self._queue):
            if run.place != place:
                run.place = place
                run.put(Queued(place))
        self._changed.notify_all()

    def _serve(self, run: Run, stopping: threading.Event) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue[0] is run or stopping.is_set())
            begins = self._queue[0] is run
        last: Event = Done(stopped=True, blocks=0, frames=0, seconds=0, peak_bytes=0)
        if begins:
            self.begun.append(run.job)
            for event in self._events(run.job, stopping):
                if self.killed:
                    threading.Event().wait()
                if isinstance(event, (Done, Failed)):
                    last = event
                else:
                    run.put(event)
        # Makes way before it tells.
        with self._changed:
            self._queue.remove(run)
            run.place = 0
            self._tell_places()
        run.put(last)

    def _events(self, job: Job, stopping: threading.Event) -> Iterator[Event]:
        spec = registry.find(job.backend_id)
        entry = next(entry for entry in registry.entries() if entry.spec.id == job.backend_id)
        request, prompt = job.request, job.request.prompt
        if entry.missing and job.backend_id != "pocket":
            yield Failed(f"{spec.title} cannot run here. {entry.missing}")
            return
        yield Loading("Loading the pattern generator.")
        begun = time.monotonic()
        pause = {"slow": 4, "instant": 0}.get(prompt, 1) * self.block_seconds / self.steps
        sides, frames = job.sides, spec.video_frames(job.first_block)
        for block in range(job.first_block, request.blocks):
            if prompt.startswith("fail") and block == 2:
                said = "Out of memory in block 3 of 12. Choose fewer blocks. What was made so far is kept."
                yield Failed(said)
                return
            move = self.moves.pop(0) if self.moves else None
            count = spec.video_frames(block + 1) - spec.video_frames(block)
            for number, side in enumerate(sides):
                if block >= side.blocks(request.blocks):
                    continue
                started = time.monotonic()
                for step in range(self.steps):
                    if stopping.is_set():
                        yield Done(True, block, frames, time.monotonic() - begun, 123 << 20, (), 9 << 20)
                        return
                    yield Progress(block, request.blocks, step, self.steps, number)
                    time.sleep(pause / len(sides))
                seed = dict(request.reseeds).get(block, 0) % 7
                shown = [painted(frames + t, spec.height, spec.width, number + seed) for t in range(count)]
                yield Update(
                    Segment(np.stack(shown), block, frames, spec.fps, {"denoise": 40.0, "decode": 10.0}),
                    stats(job, side, block + 1),
                    1e3 * (time.monotonic() - started),
                    time.monotonic() - begun,
                    number,
                    move,
                    100 << 20,
                    123 << 20,
                )
            frames += count
        notes = (f"Understood: {prompt or 'nothing'}.",)
        seconds = time.monotonic() - begun
        yield Done(False, request.blocks, frames, seconds, 123 << 20, notes, 0, 10 << 20, 100 << 20)


def stats(job: Job, side: Side, blocks: int) -> CacheStats:
    """What a cache reports after `blocks` blocks of a side of `job`."""
    spec = registry.find(job.backend_id)
    stored, bf16 = cache_bytes(spec.geometry, side.codec, side.policy, blocks, spec.latents_per_block)
    layout = side.policy.layout(blocks)
    kept = (len(layout.recent) + len(layout.sink)) / max(layout.visible_blocks, 1)
    recent = int(bf16 * kept)
    rest = max(stored - recent, 0)
    if isinstance(side.codec, BF16Config):
        parts = {"values": rest, "recent": recent}
    else:
        parts = {"codes": rest * 3 // 4, "scales": rest // 10, "labels": rest // 40, "recent": recent}
        parts["centroids"] = rest - parts["codes"] - parts["scales"] - parts["labels"]
    frames = layout.visible_blocks * spec.latents_per_block
    return CacheStats(
        stored_bytes=stored, bf16_bytes=bf16, scratch_bytes=1 << 20, parts=parts, frames=frames,
        total_frames=blocks * spec.latents_per_block, tokens=frames * spec.geometry.tokens_per_frame,
        spans=len(layout.spans), encode_ms=1.0 * blocks, read_ms=2.0 * blocks,
    )  # fmt: skip
