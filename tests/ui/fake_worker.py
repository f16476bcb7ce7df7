"""A worker without a model: moving patterns with a readable frame number, and the real policy's cost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from backends import registry
from backends.base import Done, Event, Failed, Loading, Progress, Queued, Segment, Update
from backends.jobs import Job, Run
from backends.machine import DeviceInfo
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


def painted(number: int, height: int, width: int) -> np.ndarray:
    """uint8 [H, W, 3]: a drifting gradient, and `number` in black and white cells on top, low bit first."""
    rows, columns = np.mgrid[:height, :width]
    frame = np.stack(
        [(columns + 4 * number) % 256, rows * 255 // height, np.full_like(rows, 96 + (number % 64))], axis=-1
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
    stopped: list[str] = field(default_factory=list)
    jobs: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._device = threading.Lock()
        self._waiting: list[Run] = []

    def start(self) -> None:
        self.info = INFO

    def close(self) -> None:
        pass

    def submit(self, job: Job) -> Run:
        self.start()
        stopping = threading.Event()
        run = Run(job, lambda run: (stopping.set(), self.stopped.append(run.id)))
        self.jobs.append(job)
        self._waiting.append(run)
        threading.Thread(target=self._serve, args=(run, stopping), daemon=True).start()
        return run

    def _serve(self, run: Run, stopping: threading.Event) -> None:
        place = 0
        while not (self._waiting[0] is run and self._device.acquire(timeout=0.05)):
            if stopping.is_set():
                self._waiting.remove(run)
                run.put(Done(stopped=True, blocks=0, frames=0, seconds=0, peak_bytes=0))
                return
            if (now := self._waiting.index(run)) != place:
                place = now
                run.put(Queued(place))
            time.sleep(0.02)
        try:
            for event in self._events(run.job, stopping):
                run.put(event)
        finally:
            self._waiting.remove(run)
            self._device.release()

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
        frames = 0
        for block in range(request.blocks):
            if prompt.startswith("fail") and block == 2:
                yield Failed(
                    "Out of memory in block 3 of 12. Choose fewer blocks. What was made so far is kept."
                )
                return
            started = time.monotonic()
            for step in range(self.steps):
                if stopping.is_set():
                    yield Done(True, block, frames, time.monotonic() - begun, 123 << 20, ())
                    return
                yield Progress(block, request.blocks, step, self.steps)
                time.sleep(pause)
            count = spec.video_frames(block + 1) - spec.video_frames(block)
            pixels = np.stack([painted(frames + t, spec.height, spec.width) for t in range(count)])
            update = Update(
                Segment(pixels, block, frames, spec.fps),
                stats(job, block + 1),
                1e3 * (time.monotonic() - started),
                time.monotonic() - begun,
            )
            frames += count
            yield update
        notes = (f"Understood: {prompt or 'nothing'}.",)
        yield Done(False, request.blocks, frames, time.monotonic() - begun, 123 << 20, notes)


def stats(job: Job, blocks: int) -> CacheStats:
    """What a cache reports after `blocks` blocks of `job`."""
    spec = registry.find(job.backend_id)
    stored, bf16 = cache_bytes(spec.geometry, job.codec, job.policy, blocks, spec.latents_per_block)
    layout = job.policy.layout(blocks)
    kept = (len(layout.recent) + len(layout.sink)) / max(layout.visible_blocks, 1)
    recent = int(bf16 * kept)
    rest = max(stored - recent, 0)
    if isinstance(job.codec, BF16Config):
        parts = {"values": rest, "recent": recent}
    else:
        parts = {"codes": rest * 3 // 4, "scales": rest // 10, "labels": rest // 40, "recent": recent}
        parts["centroids"] = rest - parts["codes"] - parts["scales"] - parts["labels"]
    frames = layout.visible_blocks * spec.latents_per_block
    return CacheStats(
        stored_bytes=stored, bf16_bytes=bf16, scratch_bytes=0, parts=parts, frames=frames,
        total_frames=blocks * spec.latents_per_block, tokens=frames * spec.geometry.tokens_per_frame,
        spans=len(layout.spans), encode_ms=1.0, read_ms=1.0,
    )  # fmt: skip
