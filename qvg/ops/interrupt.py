"""Interruption of long computations, by a check that they call now and then.

k-means of many stages and rounds takes longer on a CPU than someone who pressed Stop will wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_check: ContextVar[Callable[[], None] | None] = ContextVar("check", default=None)


@contextmanager
def interruptible(check: Callable[[], None]) -> Iterator[None]:
    """Has `checkpoint` call `check` in this context, which ends the computation by raising. What was being
    written then is incomplete: throw it away."""
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


def checkpoint() -> None:
    """Raises what the `check` in force raises. Touches no device and waits for none."""
    check = _check.get()
    if check is not None:
        check()
