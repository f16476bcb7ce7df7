"""The worker process that owns a device: it keeps one generator loaded and runs one job at a time.

Torch is imported inside `main`, so that the page can refer to `main` without loading it.
"""

from __future__ import annotations

import ctypes
import importlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from typing import TYPE_CHECKING, Any, NamedTuple

from backends.base import Backend, Stopped
from backends.camera import KEYS, CameraMove
from backends.events import Done, Event, Failed, Loading
from backends.runtime.errors import explain
from backends.runtime.hardware import DeviceInfo, choose, inspect, physical_cores
from backends.runtime.jobs import Job
from backends.runtime.warmup import Use, Warmup

if TYPE_CHECKING:
    import torch

    from backends.runtime.session import Session

BEAT_S = 0.2
KEEP_S = 600.0  # a finished video is kept this long, so that it can be extended
NOTHING_MADE = Done(stopped=True, blocks=0, frames=0, seconds=0.0, peak_bytes=0)


@dataclass(frozen=True, slots=True)
class Order:
    """A job for the process. Numbers count up from 1 over the life of a worker."""

    number: int
    job: Job


@dataclass(frozen=True, slots=True)
class Ready:
    """Report that the process is up."""

    info: DeviceInfo


@dataclass(frozen=True, slots=True)
class Ended:
    """Report that the run is over and has released the device.

    If `usable` is False, the process must be replaced.
    """

    event: Done | Failed
    usable: bool


Report = Ready | Ended | Event


class Controls(NamedTuple):
    """Shared memory between page and process, without a lock: a killed process would keep one.

    `stop.value` is the number of the order to stop, `steered.value` of the steered order. `held[i]` is
    whether the i-th of `KEYS` is down, `presses[i]` how often it went down: a short press between two blocks
    still counts. In the other direction, the process counts `beats` up for as long as it can answer.
    """

    stop: Any
    steered: Any
    held: Any
    presses: Any
    beats: Any


def make_controls(context: BaseContext) -> Controls:
    return Controls(
        context.RawValue(ctypes.c_ulonglong, 0),
        context.RawValue(ctypes.c_ulonglong, 0),
        context.RawArray(ctypes.c_ubyte, len(KEYS)),
        context.RawArray(ctypes.c_ulonglong, len(KEYS)),
        context.RawValue(ctypes.c_ulonglong, 0),
    )


def hold(controls: Controls, number: int, keys: tuple[str, ...]) -> None:
    """Sets the pressed keys in order `number`, from the page."""
    for index, key in enumerate(KEYS):
        if key in keys and not controls.held[index]:
            controls.presses[index] += 1
        controls.held[index] = key in keys
    controls.steered.value = number


def main(reports: Connection, device_name: str, loaders: str, controls: Controls) -> None:
    """Runs the process until the page is gone."""
    # Ctrl-C reaches every process of a terminal, but the page ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_the_page, daemon=True).start()

    try:
        import torch

        torch.set_num_threads(physical_cores())
        device = choose(device_name)
        reports.send(Ready(inspect(device)))
    except Exception as error:
        reports.send(explain(error, f"while preparing device {device_name!r}"))
        return
    # A thread of its own, so that a long denoising step is not taken for silence.
    threading.Thread(target=_beat, args=(controls,), daemon=True).start()
    runner = JobRunner(device, loaders, controls)
    # Ends when the page does.
    with suppress(EOFError, BrokenPipeError):
        while True:
            if not reports.poll(KEEP_S):
                runner.release()
            runner.serve(reports.recv(), reports.send)


class JobRunner:
    """Runner of jobs: keeps the last job's generator loaded, and for a while its video, to extend it."""

    def __init__(
        self, device: torch.device, loaders: str, controls: Controls, *, compiles: bool = True
    ) -> None:
        """Creates the runner. With `compiles`, a job's kernels are compiled before its first block."""
        self._device = device
        self._compiles = compiles
        self._loaders = loaders
        self._controls = controls
        self._seen = [0] * len(KEYS)  # presses that moves have used
        self._backend: Backend | None = None
        self._backend_id = ""
        self._video = ""  # the name of the video that is kept
        self._session: Session | None = None

    def listen(self, controls: Controls) -> None:
        """Switches to other controls."""
        self._controls, self._seen = controls, list(controls.presses)

    def preload(self, backend_id: str, on_status: Callable[[str], None]) -> None:
        """Loads a generator in advance. Raises the errors of its loader."""
        self._load(backend_id, on_status)

    def release(self) -> None:
        """Releases the kept video."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def serve(self, order: Order, send: Callable[[Report], None]) -> None:
        """Runs the job and sends its events, the last one in Ended."""
        from backends.runtime.session import free_memory

        def stopping() -> bool:
            return self._controls.stop.value == order.number

        def steer() -> CameraMove | None:
            return self._steered(order.number)

        def on_status(text: str) -> None:
            if stopping():
                raise Stopped
            send(Loading(text))

        job = order.job
        last: Done | Failed = NOTHING_MADE
        try:
            backend = self._prepare(job, on_status)
        except Stopped:
            free_memory()
        except Exception as error:
            last = explain(error, f"while loading {job.backend_id}")
            free_memory()
        else:
            session = self._session_for(job, backend)
            for event in session.run(
                job.request,
                stopping,
                first_block=job.first_block,
                keep=bool(job.video),
                emit=send,
                steer=steer,
            ):
                if isinstance(event, (Done, Failed)):
                    last = event
                else:
                    send(event)
        send(Ended(last, self._usable()))

    def _prepare(self, job: Job, on_status: Callable[[str], None]) -> Backend:
        """Returns the job's generator, loaded; its kernels are compiled meanwhile."""
        if not self._compiles:
            return self._load(job.backend_id, on_status)
        with Warmup(Use.of(job), self._device) as warmup:
            backend = self._load(job.backend_id, on_status)
            warmup.wait(on_status)
        return backend

    def _session_for(self, job: Job, backend: Backend) -> Session:
        from backends.runtime.session import Session

        kept = self._session
        if kept is None or not job.first_block or self._video != job.video or not kept.continue_as(job.sides):
            self.release()
            kept = Session(backend, job.sides, self._device)
        self._session, self._video = kept, job.video
        return kept

    def _steered(self, number: int) -> CameraMove | None:
        """Returns the keys pressed now or since the last call; None while order `number` is not steered."""
        presses, seen = list(self._controls.presses), self._seen
        self._seen = presses
        if self._controls.steered.value != number:
            return None
        down = zip(KEYS, self._controls.held, presses, seen, strict=True)
        return CameraMove(tuple(key for key, held, now, before in down if held or now != before))

    def _load(self, backend_id: str, on_status: Callable[[str], None]) -> Backend:
        from backends.runtime.session import free_memory

        if self._backend is not None and self._backend_id == backend_id:
            return self._backend
        # The old one is released first: two models rarely fit.
        self.release()
        self._backend = None
        free_memory()
        module, _, name = self._loaders.partition(":")
        backend = getattr(importlib.import_module(module), name)(backend_id, self._device, on_status)
        self._backend, self._backend_id = backend, backend_id
        return backend

    def _usable(self) -> bool:
        """Returns whether CUDA works: after a failed kernel every call in its context fails the same way."""
        import torch

        if self._device.type != "cuda":
            return True
        try:
            torch.cuda.synchronize(self._device)
        except RuntimeError:
            return False
        return True


def _beat(controls: Controls) -> None:
    while True:
        controls.beats.value += 1
        time.sleep(BEAT_S)


def _leave_with_the_page() -> None:
    page = multiprocessing.parent_process()
    if page is not None:
        page.join()
        os._exit(0)
