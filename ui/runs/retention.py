"""How long a public page keeps videos: until they are too old, or all of them take too much room.

The oldest go first. Runs stay, whatever their age and size, that have not ended, that someone looks at, or
that were written, shown or exported a short while ago.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ui.runs.run_index import Entry

KEEP_HOURS = 24
KEEP_GIB = 8
GRACE_S = 600.0  # since a run was last written, shown or exported: its page may still fetch its files


@dataclass(frozen=True, slots=True)
class Limits:
    """Of the runs of a public page, in hours and GiB. 0 is no limit."""

    hours: float = KEEP_HOURS
    gib: float = KEEP_GIB

    @property
    def any(self) -> bool:
        return bool(self.hours or self.gib)


LIMITS = Limits()


class Retention:
    """Which runs have to go. Threads may share it."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.time) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._used: dict[Path, float] = {}  # folders by when they were last used
        self._exporting: list[Path] = []
        self._sizes: dict[Entry, int] = {}  # of runs that no longer change, in bytes

    def use(self, folder: Path) -> None:
        """Notes that the files of a run are being fetched, or are about to be."""
        with self._lock:
            self._used[folder] = self._clock()

    @contextmanager
    def exporting(self, folder: Path) -> Iterator[None]:
        """Keeps a run as long as something is written into its folder, and for a while after."""
        with self._lock:
            self._exporting.append(folder)
        try:
            yield
        finally:
            with self._lock:
                self._exporting.remove(folder)
                self._sizes = {entry: size for entry, size in self._sizes.items() if entry.folder != folder}
            self.use(folder)

    def over(self, runs: Sequence[Entry], may_go: Callable[[Entry], bool]) -> list[Entry]:
        """Returns those of `runs`, all that there are, that have to go, the oldest first."""
        now = self._clock()
        with self._lock:
            self._used = {folder: at for folder, at in self._used.items() if now - at < GRACE_S}
            in_use = {*self._used, *self._exporting}
        oldest_first = sorted(runs, key=lambda entry: entry.written_at)
        free = [
            entry
            for entry in oldest_first
            if entry.state == "done"
            and now - entry.written_at >= GRACE_S
            and entry.folder not in in_use
            and may_go(entry)
        ]
        gone = [entry for entry in free if self._too_old(entry, now)]
        if self._limits.gib:
            sizes = self._sizes_of(runs, set(free))
            too_much = (
                sum(sizes.values()) - sum(sizes[entry] for entry in gone) - self._limits.gib * (1 << 30)
            )
            for entry in free[len(gone) :]:
                if too_much <= 0:
                    break
                gone.append(entry)
                too_much -= sizes[entry]
        return gone

    def _too_old(self, entry: Entry, now: float) -> bool:
        return bool(self._limits.hours) and now - entry.written_at > self._limits.hours * 3600

    def _sizes_of(self, runs: Sequence[Entry], settled: set[Entry]) -> dict[Entry, int]:
        """Bytes by run; those of `settled` are not looked up again."""
        known = self._sizes
        sizes = {entry: known.get(entry) or folder_bytes(entry.folder) for entry in runs}
        with self._lock:
            self._sizes = {entry: size for entry, size in sizes.items() if entry in settled}
        return sizes


def folder_bytes(folder: Path) -> int:
    """Returns what the files in a folder and its subfolders take, of those that can be looked at."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except OSError:
                continue  # removed meanwhile
    return total
