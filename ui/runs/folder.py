"""Folder of a run's files: `<outputs>/<date>-<id>/`, created with its first file, and locked as long as a
program has the run in memory.

`run.json` describes the run and its results. Beside it lie a video for every side, the start picture, and a
thumbnail. During the run its blocks lie there too, for the player to fetch.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ui import safe_json, text
from ui.runs import mp4
from ui.runs.later import call_later

LINGER_S = 60.0  # for a slow viewer to fetch the last segments before they are removed
LOW_BYTES = 1 << 30  # of free disk space: below, the page shows a warning
RECORD, PICTURE, CLIP, THUMBNAIL = "run.json", "picture.png", "clip.video", "thumbnail.jpg"
_THUMBNAIL_SIDE = 320


class RunFolder:
    """The files of one run. After a failed write `problem` is a sentence, and nothing more is written."""

    def __init__(self, path: Path, linger_s: float = LINGER_S) -> None:
        self.path = path
        self.problem = ""
        self._segments: list[Path] = []
        self._linger_s = linger_s
        self._lock: int | None = None  # file descriptor of the folder

    @classmethod
    def new(cls, outputs: Path, run_id: str, linger_s: float = LINGER_S) -> RunFolder:
        """Returns the folder of a new run, without creating it."""
        token = re.sub(r"[^A-Za-z0-9_-]", "", run_id)
        # Names sort by time, also within one second.
        begun = f"{datetime.now():%Y-%m-%d-%H%M%S-%f}"[:-3]
        return cls(outputs.resolve() / f"{begun}-{token}", linger_s)

    def keep(self, name: str, data: bytes) -> Path | None:
        """Writes a segment for the player to fetch; returns None if that fails."""
        file = self.path / f"segment-{name}.mp4"

        def write() -> None:
            self._segments.append(file)
            file.write_bytes(data)

        return file if self._try(write, file) else None

    def finish(
        self, segments: Sequence[bytes], name: str, fps: int, settings: Mapping[str, Any]
    ) -> Path | None:
        """Writes a whole video; returns None if that fails."""
        if not segments:
            return None
        final, partial = self.path / f"{name}.mp4", self.path / f".{name}.mp4"

        def write() -> None:
            mp4.join(segments, partial, fps, settings)
            os.replace(partial, final)

        return final if self._try(write, partial) else None

    def record(self, settings: Mapping[str, Any]) -> None:
        """Writes run.json atomically: a reader sees the old contents or the new ones."""
        partial = self.path / f".{RECORD}"

        def write() -> None:
            partial.write_text(json.dumps(settings, ensure_ascii=False, indent=1), encoding="utf-8")
            os.replace(partial, self.path / RECORD)

        self._try(write, partial)

    def keep_picture(self, pixels: np.ndarray) -> Path | None:
        """Writes the start picture, uint8 [H, W, 3], for repeating the run."""
        file = self.path / PICTURE
        return file if self._try(lambda: Image.fromarray(pixels).save(file), file) else None

    def keep_clip(self, file: Path) -> None:
        """Copies the video that the run continues."""
        kept = self.path / CLIP
        self._try(lambda: shutil.copyfile(file, kept), kept)

    def keep_thumbnail(self, frame: np.ndarray) -> None:
        """Writes a thumbnail of `frame`, uint8 [H, W, 3]."""

        def write() -> None:
            image = Image.fromarray(frame)
            image.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
            image.save(file, quality=88)

        file = self.path / THUMBNAIL
        self._try(write, file)

    def remove_segments(self) -> None:
        """Removes the segments after a delay, when no viewer can still be fetching them."""
        files, self._segments = self._segments, []

        def remove() -> None:
            for file in files:
                _try_to_remove(file)
            atexit.unregister(remove)

        if self._linger_s <= 0:
            return remove()
        atexit.register(remove)
        call_later(self._linger_s, remove)

    def delete(self) -> None:
        """Deletes the folder with its files. Raises OSError."""
        if self.path.exists():
            shutil.rmtree(self.path)
        self.release()

    def hold(self) -> bool:
        """Locks an existing folder against other programs; returns False if another one has locked it.

        The system releases the lock when the program ends. Where folders cannot be locked, on Windows and on
        some network drives, this returns True: only one program at a time may use an outputs folder there.
        """
        if self._lock is not None:
            return True
        try:
            import fcntl
        except ImportError:
            return True
        lock = None
        try:
            lock = os.open(self.path, os.O_RDONLY)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if lock is not None:
                os.close(lock)
            return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
        self._lock = lock
        return True

    def release(self) -> None:
        """Unlocks the folder. Can be called again."""
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def _try(self, write: Callable[[], object], file: Path) -> bool:
        if self.problem:
            return False
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.hold()
            write()
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            self.problem = text.not_saved(text.no_room() if full else error.strerror or type(error).__name__)
            _try_to_remove(file)
            return False
        return True


def read_record(folder: Path) -> dict[str, Any] | None:
    """Returns the contents of a folder's run.json; None if it cannot be read."""
    try:
        found = safe_json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def free_bytes(outputs: Path) -> int | None:
    """Returns the free space on the disk of a folder, which need not exist yet; None if unknown."""
    there = next((path for path in (outputs, *outputs.parents) if path.exists()), outputs)
    try:
        return shutil.disk_usage(there).free
    except OSError:
        return None


def _try_to_remove(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink()


def video_name(title: str, prompt: str, seed: int) -> str:
    """Returns a file name made of model, prompt and seed, valid on every system."""
    return f"{slug(f'{title} {prompt}', 60) or 'video'}-seed-{seed}"


def slug(words: str, longest: int = 40) -> str:
    """Returns `words` as lower-case ASCII letters, digits and hyphens, at most `longest` characters."""
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:longest].rstrip("-")
