"""Value of the player, which its scripts read."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TypedDict
from urllib.parse import quote

MAX_INLINE_BYTES = 32 << 20


class Track(TypedDict):
    """One side of a run."""

    name: str
    note: str  # under the picture, like `figure`
    figure: str
    segments: list[str]  # addresses, only ever added to
    mime: str  # of the segments, with the video codec
    planned: float  # seconds
    ended: bool
    final: str | None  # address of the finished mp4
    file: str  # name of a download


class Screen(TypedDict):
    """The player's value. `run` is None while nothing is shown; playback begins at `start` seconds."""

    run: str | None
    fps: int
    start: float
    tracks: list[Track]
    ended: bool
    steerable: bool
    ratio: str  # width / height


def nothing(width: int, height: int) -> Screen:
    """Returns an empty screen of that shape, in pixels."""
    return {
        "run": None,
        "fps": 1,
        "start": 0.0,
        "tracks": [],
        "ended": False,
        "steerable": False,
        "ratio": f"{width} / {height}",
    }


def track(name: str, note: str, figure: str, planned: float, file: str) -> Track:
    """Returns a side without segments. `planned`: seconds; `file`: name of a download."""
    return {
        "name": name,
        "note": note,
        "figure": figure,
        "segments": [],
        "mime": "",
        "planned": planned,
        "ended": False,
        "final": None,
        "file": file,
    }


def address(path: Path) -> str:
    """Returns the address at which Gradio serves a file of the outputs folder, relative to the page's root
    path."""
    return "/gradio_api/file=" + quote(path.resolve().as_posix())


def inline(data: bytes) -> str | None:
    """Returns a video as a data URL, for when it cannot be written to disk; None if it is too long."""
    if len(data) > MAX_INLINE_BYTES:
        return None
    return "data:video/mp4;base64," + base64.b64encode(data).decode("ascii")
