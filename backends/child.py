"""The process that owns a device: it keeps one generator loaded and does one job at a time.

Torch is imported once the process runs, so that the page may name `main` without loading it. Starting it
imports the program's main module again, as `__mp_main__`: build pages behind `if __name__ == "__main__"`.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

from backends.base import Backend, Done, Event, Failed, Loading, Stopped
from backends.failure import explain
from backends.jobs import Job
from backends.machine import DeviceInfo, choose, inspect, physical_cores

if TYPE_CHECKING:
    import torch

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


def main(reports: Connection, device_name: str, loaders: str, stop_number: Any) -> None:
    """The process's main function. `stop_number.value` is the number of the order to stop."""
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
    host = _Host(device, loaders, stop_number)
    # Until the page is gone.
    with suppress(EOFError, BrokenPipeError):
        while True:
            host.serve(reports.recv(), reports)


class _Host:
    """Keeps the generator of the last job loaded."""

    def __init__(self, device: torch.device, loaders: str, stop_number: Any) -> None:
        self._device = device
        self._loaders = loaders
        self._stop_number = stop_number
        self._backend: Backend | None = None
        self._backend_id = ""

    def serve(self, order: Order, reports: Connection) -> None:
        """Sends the job's events, the last one in Ended."""
        from backends.session import free_memory, run_session

        def stopping() -> bool:
            return self._stop_number.value == order.number

        def say(text: str) -> None:
            if stopping():
                raise Stopped
            reports.send(Loading(text))

        job = order.job
        last: Done | Failed = NOTHING_MADE
        try:
            backend = self._load(job.backend_id, say)
        except Stopped:
            free_memory()
        except Exception as error:
            last = explain(error, f"while loading {job.backend_id}")
            free_memory()
        else:
            for event in run_session(
                backend, job.request, job.codec, job.policy, stopping, device=self._device, emit=reports.send
            ):
                if isinstance(event, (Done, Failed)):
                    last = event
                else:
                    reports.send(event)
        reports.send(Ended(last, self._usable()))

    def _load(self, backend_id: str, say: Callable[[str], None]) -> Backend:
        from backends.session import free_memory

        if self._backend is not None and self._backend_id == backend_id:
            return self._backend
        # The old one first: two models rarely fit.
        self._backend = None
        free_memory()
        module, _, name = self._loaders.partition(":")
        backend = getattr(importlib.import_module(module), name)(backend_id, self._device, say)
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


def _leave_with_the_page() -> None:
    page = multiprocessing.parent_process()
    if page is not None:
        page.join()
        os._exit(0)
