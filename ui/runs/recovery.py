"""Recovery of runs left unfinished when a program ended: queued ones are submitted again, others joined from
their blocks."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from ui import text
from ui.runs import history, mp4
from ui.runs.folder import RunFolder, read_record
from ui.runs.history import Past
from ui.runs.run_index import RunIndex

_UNFINISHED = ("waiting", "running")
_SEGMENTS = "segment-*.mp4"
_SEGMENT = re.compile(r"segment-(\d+)-(.+)-(\d{5}|before)\.mp4\Z")
_log = logging.getLogger(__name__)


def take_up(index: RunIndex) -> list[tuple[Past, RunFolder]]:
    """Returns the runs that were queued when their program ended, in their order, with their folders locked.

    Runs that were active are finished from their saved blocks, and blocks of finished videos are removed.
    Folders locked by another program are skipped.
    """
    waiting: list[tuple[Past, RunFolder]] = []
    for entry in index.entries():
        if not (entry.state in _UNFINISHED or any(entry.folder.glob(_SEGMENTS))):
            continue
        folder = RunFolder(entry.folder)
        # Read again: the record may have changed before the folder was locked.
        settings = read_record(entry.folder) if folder.hold() else None
        if settings is None:
            folder.release()
            continue
        past = Past(entry.folder, settings)
        if past.state == "waiting" and not past.made.get("blocks"):
            waiting.append((past, folder))
            continue
        try:
            if past.state in _UNFINISHED:
                _salvage(past, folder)
            elif past.state == "done":
                # A run is done only after its video is written.
                _remove_segments(past.folder)
        except (OSError, ValueError):
            _log.exception("what there is of %s could not be put together", past.folder)
        folder.release()
    return sorted(waiting, key=lambda found: found[0].order)


def _salvage(past: Past, folder: RunFolder) -> None:
    """Appends the blocks of an interrupted run to the video finished before, and records its end."""
    pieces: dict[tuple[int, str], list[Path]] = {}
    for file in sorted(past.folder.glob(_SEGMENTS)):
        if (match := _SEGMENT.match(file.name)) and match[3] != "before":
            pieces.setdefault((int(match[1]), match[2]), []).append(file)
    fps = int(past.made.get("fps") or 1)
    frames = int(past.made.get("frames") or 0)
    for view, name in sorted(pieces):
        final, partial = past.folder / f"{name}.mp4", past.folder / f".{name}.mp4"
        before = [final.read_bytes()] if view > 1 and final.exists() else []
        segments = [*before, *(file.read_bytes() for file in pieces[view, name])]
        # A segment that is truncated or damaged is left out, so that the others survive.
        segments = [data for data in segments if mp4.is_whole(data)]
        if not segments:
            continue
        frames = max(frames, mp4.join(segments, partial, fps, history.for_others(past.settings)))
        partial.replace(final)
    _remove_segments(past.folder)
    made = {**past.made, "failed": text.INTERRUPTED, "frames": frames, "sides": []}
    folder.record({**past.settings, "state": "done", "made": made})


def _remove_segments(folder: Path) -> None:
    for file in folder.glob(_SEGMENTS):
        file.unlink()
