"""The screen: a gr.HTML whose script feeds MediaSources with segment addresses taken from its value.

The value is one dict: `run` (None: nothing to show), `fps`, `start` (seconds into it where playing begins),
`ended`, and `tracks`, one a side: `name`, `note` and `figure` (under the picture), `segments` (addresses,
only ever added to), `codec`, `planned` (seconds), `ended`, `final` (address of the finished mp4) and `file`
(what a download is called). Gradio sends only what changed in it. Tracks play in step: beside each other, one
wiped over another, or as their difference.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from ui import text
from ui.components import camera

SCRIPT = "\n".join(
    (Path(__file__).parents[1] / "components" / name).read_text(encoding="utf-8")
    for name in ("track.js", "player.js", "drive.js")
)
MAX_INLINE_BYTES = 32 << 20
MAX_GAIN = 32

_TEMPLATE = (Path(__file__).parents[1] / "components" / "player.html").read_text(encoding="utf-8")


def component(steer: Callable[[dict[str, Any]], bool]) -> gr.HTML:
    """`steer` hears which keys are held, of which run: {"run", "keys"}."""
    return gr.HTML(
        nothing(224, 128),
        html_template=_TEMPLATE,
        js_on_load=SCRIPT,
        server_functions=[steer],
        elem_id="player",
        apply_default_css=False,
        download=text.DOWNLOAD,
        max_gain=MAX_GAIN,
        words={
            "difference": text.DIFFERENCE_ALT,
            "empty": text.EMPTY_SCREEN,
            "waiting": text.WAITING_SCREEN,
            "back": text.FRAME_BACK,
            "on": text.FRAME_ON,
            "position": text.POSITION,
            "view": text.VIEW,
            "against": text.AGAINST,
            "wipe": text.VIEW_WIPE,
            "gain": text.GAIN,
            "revisit": text.REVISIT_NOTE,
            "drive": text.DRIVE,
            "keys": text.DRIVE_KEYS,
        },
        pad=[key._asdict() for key in camera.PAD if key.key != "still"],
        views=[
            {"value": "beside", "name": text.VIEW_BESIDE},
            {"value": "wipe", "name": text.VIEW_WIPE},
            {"value": "difference", "name": text.VIEW_DIFFERENCE},
        ],
    )


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
