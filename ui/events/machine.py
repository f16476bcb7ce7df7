"""Event handler of the machine report, which is made on demand.

The worker makes it, in its own process, once for all visitors.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from backends.checkup import Part
from ui import text

KEEP_S = 120.0  # for which a report is reused
# Ids of the parts shown to the public: not this machine's folders and disks.
PUBLIC = ("software", "device", "attention")


@runtime_checkable
class Reporter(Protocol):
    """A worker that can report on its machine."""

    def about(self, outputs: Path) -> list[Part]:
        """Examines the machine, which takes seconds, or a minute if kernels have to be compiled."""
        ...


class Machine:
    """The machine report. `locked` returns whether visitors see only the public parts."""

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
        """Returns the component's value with the report, waiting for it if it has to be made."""
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
    """Returns the value that shows `parts`; without any, a report in progress."""
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
