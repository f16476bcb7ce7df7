"""Where a run keeps its files: `<outputs>/<date>-<id>/`, made when the first block is there."""

from __future__ import annotations

import atexit
import contextlib
import errno
import os
import re
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from ui import media, text

LINGER_S = 60.0  # for a slow viewer to fetch the last segments before they are removed


class RunFolder:
    """The files of one run. On a full disk `problem` says so, and nothing more is written."""

    def __init__(self, outputs: Path, run_id: str, linger_s: float = LINGER_S) -> None:
        token = re.sub(r"[^A-Za-z0-9_-]", "", run_id)
        self.path = outputs.resolve() / f"{datetime.now():%Y-%m-%d-%H%M%S}-{token}"
        self.problem = ""
        self._segments: list[Path] = []
        self._linger_s = linger_s

    def keep(self, index: int, data: bytes) -> Path | None:
        """Writes a segment for the player to fetch; None when that is not possible."""
        if self.problem:
            return None
        file = self.path / f"segment-{index:05d}.mp4"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._segments.append(file)
            file.write_bytes(data)
        except OSError as error:
            self._give_up(error)
            _try_to_remove(file)
            return None
        return file

    def finish(
        self, segments: Sequence[bytes], name: str, fps: int, settings: Mapping[str, Any]
    ) -> Path | None:
        """Writes the whole video, then lets go of the segments; None when that is not possible."""
        if self.problem or not segments:
            return None
        final, partial = self.path / f"{name}.mp4", self.path / f".{name}.mp4"
        try:
            media.join(segments, partial, fps, settings)
            os.replace(partial, final)
        except OSError as error:
            _try_to_remove(partial)
            self._give_up(error)
            return None
        self._remove_segments_later()
        return final

    def _give_up(self, error: OSError) -> None:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        self.problem = text.not_saved(text.no_room() if full else (error.strerror or type(error).__name__))

    def _remove_segments_later(self) -> None:
        def remove() -> None:
            for file in self._segments:
                _try_to_remove(file)
            atexit.unregister(remove)

        if self._linger_s <= 0:
            return remove()
        atexit.register(remove)
        timer = threading.Timer(self._linger_s, remove)
        timer.daemon = True
        timer.start()


def _try_to_remove(file: Path) -> None:
    with contextlib.suppress(OSError):
        file.unlink()


def video_name(title: str, prompt: str, seed: int) -> str:
    """A file name that says what is inside, safe on any system."""
    words = re.sub(r"[^a-z0-9]+", "-", f"{title} {prompt}".lower()).strip("-")[:60].rstrip("-")
    return f"{words or 'video'}-seed-{seed}"
