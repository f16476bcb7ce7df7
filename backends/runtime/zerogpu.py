"""Worker for a Hugging Face Space with ZeroGPU: each run is lent a process with a GPU.

`spaces` forks such a process from the page and calls the decorated generator in it. A whole run happens
there, on the same `JobRunner` as in the process of a `Worker`. Its state is lost when the Space takes the GPU
back: to extend a video, its beginning is generated again. Each run counts against the quota of the visitor
who started it, so it is driven in the context of that visitor's request. Stop and steering go through memory
that is shared before the fork.

Import this module before anything that imports torch.
"""

from __future__ import annotations

import contextvars
import itertools
import logging
import multiprocessing
import queue
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import spaces

from backends import checkup, registry
from backends.checkup import Part
from backends.events import Done, Failed, Loading, Progress, Queued, Update
from backends.runtime import generator_process, hardware, warmup
from backends.runtime.generator_process import (
    NOTHING_MADE,
    Controls,
    Ended,
    JobRunner,
    Order,
    Ready,
    Report,
    make_controls,
)
from backends.runtime.hardware import DeviceInfo
from backends.runtime.jobs import Job, Run
from backends.runtime.warmup import Use
from backends.runtime.worker import LOADERS

SLOTS = 8  # runs at once; the Space lends each its GPU
LENT = DeviceInfo(
    name="ZeroGPU, RTX PRO 6000 (half)",
    kind="cuda",
    memory_bytes=48_000_000_000,
    threads=1,
    dtype="bfloat16",
    attention="chosen on the GPU",
    reasons=("a GPU is lent for every run, and looked at then",),
)
CARDS = ("sm_120",)  # compute capabilities of GPUs that may be lent; kernels are compiled for them in advance
ON_THE_GPU = ("device", "attention", "kernels")  # parts of the report that need the GPU
_SPARE = 1.4  # factor on the estimate: a run that takes longer than requested is cut off
_LEAST_S, _START_S = 20.0, 8.0
_READ_BYTES_S = 4e8  # weights from a Space's disk, until measured
_SMALL_BYTES, _SMALL_BLOCK_S, _LARGE_BLOCK_S = 4 << 30, 1.0, 12.0  # until measured
_log = logging.getLogger(__name__)

_CONTROLS: tuple[Controls, ...] = tuple(
    make_controls(multiprocessing.get_context("fork")) for _ in range(SLOTS)
)
_runners: dict[str, JobRunner] = {}  # by loaders; a lent process starts with the page's


def _runner(loaders: str) -> JobRunner:
    if loaders not in _runners:
        # Its kernels are compiled before a GPU is requested.
        _runners[loaders] = JobRunner(hardware.choose("auto"), loaders, _CONTROLS[0], compiles=False)
    return _runners[loaders]


def _duration(order: Order, slot: int, seconds: int, loaders: str) -> int:
    return seconds


@spaces.GPU(duration=_duration)
def on_gpu(order: Order, slot: int, seconds: int, loaders: str) -> Iterator[Report]:
    """Runs a job in the process lent for it. Yields the device's description, then events, at last Ended."""
    import torch

    torch.set_num_threads(hardware.physical_cores())
    yield Ready(hardware.inspect(hardware.choose("auto")))
    runner, controls = _runner(loaders), _CONTROLS[slot]
    runner.listen(controls)
    reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
    # A generator cannot yield from inside the denoising it calls.
    thread = threading.Thread(target=runner.serve, args=(order, reports.put), daemon=True)
    thread.start()
    try:
        while not isinstance(report := reports.get(), Ended):
            yield report
        yield report
    finally:
        # Also when the Space takes the GPU back.
        controls.stop.value = order.number
        thread.join()


class _Active(NamedTuple):
    run: Run
    number: int
    slot: int


class ZeroWorker:
    """Worker that runs as many jobs at once as the Space lends GPUs for; the others wait here."""

    def __init__(self, loaders: str = LOADERS, preload: Iterable[str] = ()) -> None:
        """Preloads the generators `preload` into the page's process, for every process forked from it."""
        self._loaders = loaders
        self._info = LENT
        self._lock = threading.RLock()
        self._free = list(range(SLOTS))
        self._waiting: deque[tuple[Run, contextvars.Context]] = deque()
        self._active: dict[str, _Active] = {}
        self._numbers = itertools.count(1)
        self._block_s: dict[str, float] = {}  # measured, by generator
        self._load_s: dict[str, float] = {}
        self._compiling: dict[Use, subprocess.Popen[bytes]] = {}  # the process may have ended
        for backend_id in preload:
            self._preload(backend_id)
        self._compile([warmup.usual(entry.spec.id) for entry in registry.entries() if entry.missing is None])

    @property
    def info(self) -> DeviceInfo:
        """Returns the description of the last GPU lent, or of the usual one before any was."""
        return self._info

    def start(self) -> None:
        """Does nothing: there is nothing to start before a run."""

    def about(self, outputs: Path) -> list[Part]:
        """Returns the report on the Space's own machine and on the GPU lent to it."""
        lent = Part(
            "device", "Device", (f"{self._info.name}: a GPU is lent for every run, and looked at then.",)
        )
        # The parts left out are about a GPU that is not here.
        own = [part for part in checkup.elsewhere("cpu", outputs) if part.id not in ON_THE_GPU]
        return [lent, *own]

    def submit(self, job: Job) -> Run:
        """Queues a job. Must be called in the context of the request that the run is for."""
        run = Run(job, self._stop, self._steer, self._reorder)
        with self._lock:
            self._waiting.append((run, contextvars.copy_context()))
            self._begin()
        return run

    def seconds(self, backend_id: str, blocks: int) -> int:
        """Returns the GPU seconds to request: loading, and `blocks` blocks of all sides at the last pace."""
        spec = registry.find(backend_id)
        guess = _SMALL_BLOCK_S if spec.working_bytes < _SMALL_BYTES else _LARGE_BLOCK_S
        block_s = self._block_s.get(backend_id, guess)
        load_s = self._load_s.get(backend_id, spec.weights_bytes / _READ_BYTES_S)
        return round(max(_LEAST_S, _START_S + _SPARE * (load_s + blocks * block_s)))

    def _preload(self, backend_id: str) -> None:
        import torch

        # A process forked from one with compute threads would wait for threads it does not have.
        torch.set_num_threads(1)
        try:
            _runner(self._loaders).preload(backend_id, _log.info)
        except Exception:
            _log.exception("%s could not be loaded ahead: its first run loads it", backend_id)
        else:
            self._load_s[backend_id] = 0.0

    def _begin(self) -> None:
        while self._free and self._waiting:
            run, context = self._waiting.popleft()
            run.place = 0
            active = _Active(run, next(self._numbers), self._free.pop())
            self._active[run.id] = active
            threading.Thread(target=context.run, args=(self._drive, active), daemon=True).start()
        for place, (run, _) in enumerate(self._waiting, start=1):
            if run.place != place:
                run.place = place
                run.put(Queued(place))

    def _drive(self, active: _Active) -> None:
        run, job = active.run, active.run.job
        requested = job.request.blocks
        blocks = sum(side.blocks(requested) for side in job.sides)
        seconds = self.seconds(job.backend_id, blocks)
        self._wait_for_kernels(active)
        run.put(Loading(f"Asking the Space for {seconds} s of its GPU."))
        # Videos kept by one lent process are not in another.
        order = Order(active.number, replace(job, video=""))
        last: Done | Failed = NOTHING_MADE
        lent = time.monotonic()
        try:
            # A run stopped meanwhile generates nothing.
            stopped = _CONTROLS[active.slot].stop.value == active.number
            for report in () if stopped else on_gpu(order, active.slot, seconds, self._loaders):
                match report:
                    case Ready(info):
                        self._info = info
                        lent = time.monotonic()
                    case Ended(event):
                        last = event
                    case _:
                        self._time(job, report, time.monotonic() - lent)
                        run.put(report)
        except Exception as error:
            _log.exception("the Space ended a run")
            reason = str(getattr(error, "message", error)) or type(error).__name__
            last = Failed(f"The Space could not go on with its GPU: {reason}. What was made so far is kept.")
        with self._lock:
            del self._active[run.id]
            self._free.append(active.slot)
            self._begin()
        run.put(last)

    def _compile(self, uses: list[Use]) -> None:
        """Starts to compile kernels for the cards that may be lent, in the background."""
        if not warmup.possible() or not uses:
            return
        try:
            process = warmup.start_process(uses, CARDS)
        except OSError as error:
            _log.warning("kernels are compiled when they are used: %s", error)
            return
        self._compiling |= dict.fromkeys(uses, process)

    def _wait_for_kernels(self, active: _Active) -> None:
        """Compiles missing kernels for a run: on the GPU this would count as the visitor's time."""
        use = Use.of(active.run.job)
        with self._lock:
            if use not in self._compiling:
                self._compile([use])
            process = self._compiling.get(use)
        announced = False
        while process is not None and process.poll() is None:
            if _CONTROLS[active.slot].stop.value == active.number:
                return
            if not announced:
                active.run.put(Loading(f"Compiling kernels for {use.name}, before a GPU is requested."))
                announced = True
            time.sleep(warmup.LOOK_S)

    def _time(self, job: Job, report: Report, since_lent_s: float) -> None:
        match report:
            case Progress() if job.backend_id not in self._load_s:
                self._load_s[job.backend_id] = since_lent_s
            case Update(block_ms=block_ms):
                before = self._block_s.get(job.backend_id, block_ms / 1e3)
                self._block_s[job.backend_id] = (before + block_ms / 1e3) / 2

    def _stop(self, run: Run) -> None:
        with self._lock:
            active = self._active.get(run.id)
            if active is not None:
                _CONTROLS[active.slot].stop.value = active.number
                return
            self._waiting = deque(each for each in self._waiting if each[0] is not run)
            run.place = 0
            self._begin()
        run.put(NOTHING_MADE)

    def _reorder(self, run: Run, place: int) -> None:
        with self._lock:
            found = next((each for each in self._waiting if each[0] is run), None)
            if found is not None:
                self._waiting.remove(found)
                self._waiting.insert(max(0, place - 1), found)
                self._begin()

    def _steer(self, run: Run, keys: tuple[str, ...]) -> None:
        with self._lock:
            active = self._active.get(run.id)
            if active is not None:
                generator_process.hold(_CONTROLS[active.slot], active.number, keys)
