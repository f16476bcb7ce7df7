"""Retention of videos on a public page: deleted once they are too old, or all of them together too large.

The oldest go first. Runs that have not ended, are being watched, or were written, shown or exported recently
stay, whatever their age and size.
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
    """Limits for the runs of a public page, in hours and GiB. 0 is no limit."""

    hours: float = KEEP_HOURS
    gib: float = KEEP_GIB

    @property
    def any(self) -> bool:
        """Returns whether there is a limit."""
        return bool(self.hours or self.gib)


LIMITS = Limits()


class Retention:
    """Selection of the runs to delete. Threads may share it."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.time) -> None:
        self._limits = limits
        self._clock = clock
        self._lock = threading.Lock()
        self._used: dict[Path, float] = {}  # when each folder was last used
        self._exporting: list[Path] = []
        self._sizes: dict[Entry, int] = {}  # in bytes, of runs that no longer change

    def use(self, folder: Path) -> None:
        """Records that a run's files are being fetched, or are about to be."""
        with self._lock:
            self._used[folder] = self._clock()

    @contextmanager
    def exporting(self, folder: Path) -> Iterator[None]:
        """Keeps a run while a file is written into its folder, and for a while after."""
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
        """Returns the runs to delete, the oldest first; `runs` are all that exist."""
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
        """Returns the bytes of each run; those of `settled` are not looked up again."""
        known = self._sizes
        sizes = {entry: known.get(entry) or folder_bytes(entry.folder) for entry in runs}
        with self._lock:
            self._sizes = {entry: size for entry, size in sizes.items() if entry in settled}
        return sizes


def folder_bytes(folder: Path) -> int:
    """Returns the size of the files in a folder and its subfolders, without unreadable ones."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(path, name)).st_size
            except OSError:
                continue  # removed meanwhile
    return total
