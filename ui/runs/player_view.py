"""What the player shows of a run: the value that `ui.components.player` describes."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any
from urllib.parse import quote

MAX_INLINE_BYTES = 32 << 20


def nothing(width: int, height: int) -> dict[str, Any]:
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


def track(name: str, note: str, figure: str, planned: float, file: str) -> dict[str, Any]:
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
