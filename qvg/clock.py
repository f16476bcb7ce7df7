"""Timer of work on a device. CUDA work is timed by events, so that nothing waits until the time is read."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Total time of the bodies of `with clock.running():`."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._pending: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._ms = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Adds the time of the body, on the current stream where the device is a GPU."""
        if self._cuda is None:
            start = time.perf_counter()
            yield
            self._ms += (time.perf_counter() - start) * 1e3
            return
        stream = torch.cuda.current_stream(self._cuda)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record(stream)
        yield
        end.record(stream)
        self._pending.append((begin, end))

    @property
    def ms(self) -> float:
        """Milliseconds of all bodies so far; waits for those that still run."""
        return self.read()

    def read(self, wait: bool = True) -> float:
        """Returns milliseconds; without `wait`, of finished bodies only and without waiting."""
        running = []
        for begin, end in self._pending:
            if wait:
                end.synchronize()
            elif not end.query():
                running.append((begin, end))
                continue
            self._ms += begin.elapsed_time(end)
        self._pending = running
        return self._ms
