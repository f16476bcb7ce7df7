"""Index of the outputs folder: the few fields of every record needed to find a run, kept in memory.

A list of runs reads the records of the runs it shows, and no others. Other programs may write to the same
folder, so the index never relies on notifications from this one: each look-up compares the names in the
folder with the known ones, checks the files of runs that have not ended, and reads what it returns.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ui.runs.folder import RECORD, read_record
from ui.runs.history import Past


@dataclass(frozen=True, slots=True)
class Entry:
    """A folder's index entry."""

    folder: Path
    stamp: tuple[int, int, int] | None = None  # of the record's file; None where there is none
    id: str = ""
    owner: str = ""
    state: str | None = None  # None: the folder has no readable record

    @property
    def written_at(self) -> float:
        """Returns when the record was last written, in seconds since 1970."""
        return self.stamp[0] / 1e9 if self.stamp else 0.0


class RunIndex:
    """The runs in an outputs folder, the newest first. Threads may share it.

    Every method raises OSError if the folder exists and cannot be listed.
    """

    def __init__(self, outputs: Path) -> None:
        self._outputs = outputs
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}  # by the folder's name, which begins with its date; last first
        self._open: set[str] = set()  # names of folders whose runs are not done, or that have no record

    def entries(self) -> list[Entry]:
        """Returns every run. One that was done when it was last read may have been extended since."""
        return [entry for entry in self._look() if entry.state is not None]

    def newest(self, most: int | None, owner: str | None = None, state: str | None = None) -> list[Past]:
        """Returns up to `most` runs as their records are now; None stands for any."""

        def wanted(entry: Entry) -> bool:
            return owner in (None, entry.owner) and state in (None, entry.state)

        return list(islice(self._matching(wanted), most))

    def find(self, owner: str, run_id: str) -> Past | None:
        """Returns the newest run of `owner` with that id that is done; None if there is none."""

        def wanted(entry: Entry) -> bool:
            return entry.id == run_id and entry.owner == owner and entry.state == "done"

        return next(self._matching(wanted), None)

    def _matching(self, wanted: Callable[[Entry], bool]) -> Iterator[Past]:
        for entry in self._look():
            if entry.state is None or not wanted(entry):
                continue
            entry, past = _read(entry.folder, _stamp(entry.folder))
            with self._lock:
                if entry.folder.name in self._entries:
                    self._put(entry)
            if past is not None and wanted(entry):
                yield past

    def _look(self) -> list[Entry]:
        """Returns all entries, after reading new records and changed ones of runs not done."""
        with self._lock:
            # The modification date of the folder is no clue: on some network drives it never changes.
            try:
                names = os.listdir(self._outputs)
            except (FileNotFoundError, NotADirectoryError):
                names = []
            if self._entries.keys() != set(names):
                names.sort(reverse=True)
                self._open.intersection_update(names)
                self._open.update(name for name in names if name not in self._entries)
                self._entries = {
                    name: self._entries.get(name) or Entry(self._outputs / name) for name in names
                }
            for name in tuple(self._open):
                entry = self._entries[name]
                if (stamp := _stamp(entry.folder)) != entry.stamp:
                    self._put(_read(entry.folder, stamp)[0])
            return list(self._entries.values())

    def _put(self, entry: Entry) -> None:
        name = entry.folder.name
        self._entries[name] = entry
        if entry.state == "done":
            self._open.discard(name)
        else:
            self._open.add(name)


def _stamp(folder: Path) -> tuple[int, int, int] | None:
    """Returns a value that differs for every new record: `RunFolder.record` makes a new file each time. None
    without one."""
    try:
        found = os.stat(folder / RECORD)
    except (OSError, ValueError):
        return None
    return (found.st_mtime_ns, found.st_ino, found.st_size) if stat.S_ISREG(found.st_mode) else None


def _read(folder: Path, stamp: tuple[int, int, int] | None) -> tuple[Entry, Past | None]:
    settings = read_record(folder) if stamp else None
    if settings is None:
        return Entry(folder, stamp), None
    past = Past(folder, settings)
    return Entry(folder, stamp, past.id, past.owner, past.state), past
