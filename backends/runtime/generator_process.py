"""The process that owns a device: it keeps one generator loaded and does one job at a time.

Torch is imported once the process runs, so that the page may name `main` without loading it.
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
KEEP_S = 600.0  # a finished video is kept this long, to go on with it
NOTHING_MADE = Done(stopped=True, blocks=0, frames=0, seconds=0.0, peak_bytes=0)


@dataclass(frozen=True, slots=True)
class Order:
    """A job for the child. Numbers count up from 1 over the life of a worker."""

    number: int
    job: Job


@dataclass(frozen=True, slots=True)
class Ready:
    """The process is up."""

    info: DeviceInfo


@dataclass(frozen=True, slots=True)
class Ended:
    """The run is over and holds nothing on the device. `usable` is False when the process must go."""

    event: Done | Failed
    usable: bool


Report = Ready | Ended | Event


class Controls(NamedTuple):
    """Shared memory the page writes and the process reads: without a lock, which a killed process would keep.

    `stop.value` is the number of the order to stop, `steered.value` of the one that is steered. `held[i]` is
    whether the i-th of `KEYS` is down, `presses[i]` how often it went down: a short press between two blocks
    still counts. `beats` is the other way round: the process counts it up for as long as it can answer.
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
    """Holds `keys` down in order `number`, from the page."""
    for index, key in enumerate(KEYS):
        if key in keys and not controls.held[index]:
            controls.presses[index] += 1
        controls.held[index] = key in keys
    controls.steered.value = number


def main(reports: Connection, device_name: str, loaders: str, controls: Controls) -> None:
    """The process's main function."""
    # Ctrl-C reaches every process of a terminal; the page closes this one.
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
    # Whatever the main thread computes: a long denoising step is no silence.
    threading.Thread(target=_beat, args=(controls,), daemon=True).start()
    runner = JobRunner(device, loaders, controls)
    # Until the page is gone.
    with suppress(EOFError, BrokenPipeError):
        while True:
            if not reports.poll(KEEP_S):
                runner.release()
            runner.serve(reports.recv(), reports.send)


class JobRunner:
    """Keeps the generator of the last job loaded, and for a while its video, to go on with it."""

    def __init__(
        self, device: torch.device, loaders: str, controls: Controls, *, compiles: bool = True
    ) -> None:
        """With `compiles`, a job's kernels are compiled before its first block."""
        self._device = device
        self._compiles = compiles
        self._loaders = loaders
        self._controls = controls
        self._seen = [0] * len(KEYS)  # presses that have been followed
        self._backend: Backend | None = None
        self._backend_id = ""
        self._video = ""  # the name of the one that is kept
        self._session: Session | None = None

    def listen(self, controls: Controls) -> None:
        """To other controls, from now on."""
        self._controls, self._seen = controls, list(controls.presses)

    def preload(self, backend_id: str, on_status: Callable[[str], None]) -> None:
        """Loads a generator before it is asked for. Raises what its loader raises."""
        self._load(backend_id, on_status)

    def release(self) -> None:
        """Lets go of the video."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def serve(self, order: Order, send: Callable[[Report], None]) -> None:
        """Sends the job's events, the last one in Ended."""
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
        """The job's generator, loaded, and its kernels compiled meanwhile."""
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
        """The keys held now or pressed since the last call; None while order `number` is not steered."""
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
        # The old one first: two models rarely fit.
        self.release()
        self._backend = None
        free_memory()
        module, _, name = self._loaders.partition(":")
        backend = getattr(importlib.import_module(module), name)(backend_id, self._device, on_status)
        self._backend, self._backend_id = backend, backend_id
        return backend

    def _usable(self) -> bool:
        """A failed kernel leaves a CUDA context that answers every later call with the same error."""
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
