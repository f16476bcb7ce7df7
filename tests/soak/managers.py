"""A page over a real worker that runs Pocket World with faults on order, and what is left behind by it."""

from __future__ import annotations

import gc
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from backends.runtime.worker import Worker
from tests.ui.page import Page
from ui.runs import mp4
from ui.runs.manager import RunManager

LOADERS = "tests.soak.faults:load"
BLOCK = 4  # frames
PATIENCE_S = 120.0
QUICK: dict[str, Any] = {"blocks": 2, "every": 1, "iterations": 1, "clusters": 16, "path": "right-12"}


@contextmanager
def working() -> Iterator[Worker]:
    """A worker. At the end it is closed, and no process of it is left."""
    worker = Worker("cpu", LOADERS)
    before = worker_pids()
    try:
        yield worker
    finally:
        pids = [pid for pid in worker_pids() if pid not in before]
        worker.close()
        assert not [pid for pid in pids if alive(pid)]


def tab(worker: Worker, outputs: Path) -> Page:
    """A visitor's, of a program of its own."""
    return Page(RunManager(worker, outputs))


def frames_of(page: Page) -> np.ndarray:
    """What a viewer can play of the run on the screen; none where nothing was made."""
    final = page.track["final"]
    return np.stack(list(mp4.decode(page.final()))) if final else np.empty((0, 128, 224, 3), np.uint8)


def until(true: Callable[[], Any], what: str, seconds: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)


def worker_pids() -> list[int]:
    return [child.pid for child in multiprocessing.active_children() if child.pid is not None]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def rss_mib(pid: int | None = None) -> float:
    """Memory of a process that nobody else has too."""
    gc.collect()
    fields = Path(f"/proc/{pid or os.getpid()}/smaps_rollup").read_text().split()
    return sum(int(fields[i + 1]) for i, name in enumerate(fields) if name.startswith("Private_")) / 1024
