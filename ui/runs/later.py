"""Deferred calls, all in one thread: `threading.Timer` would start a thread for each."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable

_log = logging.getLogger(__name__)
_due: list[tuple[float, int, Callable[[], None]]] = []  # a heap; calls due at the same time keep their order
_changed = threading.Condition()
_numbers = itertools.count()
_threads: list[threading.Thread] = []  # one, started by the first call


def call_later(seconds: float, function: Callable[[], None]) -> None:
    """Calls `function` after `seconds`, unless the program ends before."""
    with _changed:
        heapq.heappush(_due, (time.monotonic() + seconds, next(_numbers), function))
        if not _threads:
            _threads.append(threading.Thread(target=_serve, daemon=True, name="later"))
            _threads[0].start()
        _changed.notify()


def _serve() -> None:
    while True:
        with _changed:
            while not _due or _due[0][0] > time.monotonic():
                _changed.wait(_due[0][0] - time.monotonic() if _due else None)
            _, _, function = heapq.heappop(_due)
        try:
            function()
        # The thread serves all other calls, too.
        except Exception:
            _log.exception("a delayed call failed")
