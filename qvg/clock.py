"""Time spent on a device, without making it wait: CUDA work is timed by events, read when asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Adds up the time of `with clock.running():` bodies. `ms` waits for what is still running."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self._pending: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._ms = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
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
        for begin, end in self._pending:
            end.synchronize()
            self._ms += begin.elapsed_time(end)
        self._pending.clear()
        return self._ms
