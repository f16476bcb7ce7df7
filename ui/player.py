"""The screen: a gr.HTML whose script feeds a MediaSource with segment addresses taken from its value.

The value is one dict: `run` (None: nothing to show), `segments` (addresses, only ever added to), `codec`,
`planned` (seconds), `ended`, `final` (address of the finished mp4) and `name` (what a download is called).
Gradio sends only what changed in it.
"""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import gradio as gr

from ui import text

SCRIPT = (Path(__file__).parent / "player.js").read_text(encoding="utf-8")
MAX_INLINE_BYTES = 32 << 20

_TEMPLATE = f"""
<div class="screen" data-state="empty">
  <div class="videos"></div>
  <p class="hint" data-for="empty"><i class="glyph" aria-hidden="true"></i>{escape(text.EMPTY_SCREEN)}</p>
  <p class="hint" data-for="waiting"><i class="pulse" aria-hidden="true"></i>{escape(text.WAITING_SCREEN)}</p>
  <span class="badge"></span>
</div>
<a class="download" hidden>{escape(text.DOWNLOAD)}</a>
"""


def component() -> gr.HTML:
    return gr.HTML(
        nothing(224, 128),
        html_template=_TEMPLATE,
        js_on_load=SCRIPT,
        elem_id="player",
        apply_default_css=False,
    )


def nothing(width: int, height: int) -> dict[str, Any]:
    """An empty screen of that shape."""
    return {
        "run": None,
        "segments": [],
        "ended": False,
        "ratio": f"{width} / {height}",
    }


def address(path: Path) -> str:
    """Where Gradio serves a file of the outputs folder, to be put behind the page's own root path."""
    return "/gradio_api/file=" + quote(path.resolve().as_posix())


def inline(data: bytes) -> str | None:
    """The video as its own address, for when it could not be written anywhere; None when too long for one."""
    if len(data) > MAX_INLINE_BYTES:
        return None
    return "data:video/mp4;base64," + base64.b64encode(data).decode("ascii")
