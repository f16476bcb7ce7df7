"""What the player shows of a run: the value that its scripts read."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TypedDict
from urllib.parse import quote

MAX_INLINE_BYTES = 32 << 20


class Track(TypedDict):
    """One side of a run."""

    name: str
    note: str  # under the picture, as `figure` is
    figure: str
    segments: list[str]  # addresses, only ever added to
    codec: str  # of the video, as browsers name it
    planned: float  # seconds
    ended: bool
    final: str | None  # address of the finished mp4
    file: str  # what a download is called


class Screen(TypedDict):
    """`run` is None where there is nothing to show; playing begins `start` seconds into it."""

    run: str | None
    fps: int
    start: float
    tracks: list[Track]
    ended: bool
    steerable: bool
    ratio: str  # width / height


def nothing(width: int, height: int) -> Screen:
    """An empty screen of that shape."""
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
    """A side of which nothing is there yet. `planned`: seconds; `file`: what a download is called."""
    return {
        "name": name,
        "note": note,
        "figure": figure,
        "segments": [],
        "codec": "",
        "planned": planned,
        "ended": False,
        "final": None,
        "file": file,
    }


def address(path: Path) -> str:
    """Where Gradio serves a file of the outputs folder, to be put behind the page's own root path."""
    return "/gradio_api/file=" + quote(path.resolve().as_posix())


def inline(data: bytes) -> str | None:
    """The video as its own address, for when it could not be written anywhere; None when too long for one."""
    if len(data) > MAX_INLINE_BYTES:
        return None
    return "data:video/mp4;base64," + base64.b64encode(data).decode("ascii")
