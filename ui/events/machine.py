"""What is behind the device's name: the report on this machine, made when someone asks for it.

It is made by the worker, in a process of its own, and once for everybody.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from backends.checkup import Part
from ui import text

KEEP_S = 120.0  # a report is shown again within this time
# Strangers need not know this machine's folders and disks.
PUBLIC = ("software", "device", "attention")


@runtime_checkable
class Reporter(Protocol):
    """A worker that can tell what its machine is like."""

    def about(self, outputs: Path) -> list[Part]:
        """Looks at the machine, which takes seconds, or a minute where kernels are compiled."""
        ...


class Machine:
    """The report. `locked` where visitors are strangers."""

    def __init__(
        self,
        worker: object,
        outputs: Path,
        locked: Callable[[], bool] = lambda: False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._worker, self._outputs, self._locked, self._clock = worker, outputs, locked, clock
        self._lock = threading.Lock()
        self._parts: Sequence[Part] = ()
        self._made = 0.0

    def look(self) -> dict[str, Any]:
        """Returns the component's value with the report, waiting for it where it has to be made."""
        with self._lock:
            if not self._parts or self._clock() - self._made > KEEP_S:
                self._parts = self._report()
                self._made = self._clock()
            parts = self._parts
        return view([part for part in parts if not self._locked() or part.id in PUBLIC])

    def _report(self) -> Sequence[Part]:
        if not isinstance(self._worker, Reporter):
            return (Part("device", text.MACHINE["title"], (text.MACHINE_UNKNOWN,)),)
        return self._worker.about(self._outputs)


def view(parts: Sequence[Part]) -> dict[str, Any]:
    """Returns the value that shows `parts`; without any, a report that is being made."""
    return {
        "parts": [
            {
                "title": part.title,
                "bad": not part.works,
                "sentences": list(part.sentences),
            }
            for part in parts
        ]
    }
