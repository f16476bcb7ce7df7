"""Interruption of long computations by a check that they call now and then.

On a CPU, k-means of many stages and rounds takes longer than a user who pressed Stop should wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_check: ContextVar[Callable[[], None] | None] = ContextVar("check", default=None)


@contextmanager
def interruptible(check: Callable[[], None]) -> Iterator[None]:
    """Makes `checkpoint` call `check`, which ends the computation in the body by raising.

    What the computation was writing is then incomplete, and must not be used.
    """
    token = _check.set(check)
    try:
        yield
    finally:
        _check.reset(token)


def checkpoint() -> None:
    """Calls the current check, if there is one, and raises what it raises. Uses no device."""
    check = _check.get()
    if check is not None:
        check()
