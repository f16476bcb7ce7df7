"""Lists of runs with buttons: what waits, and what there was. And a way to hand a file to the browser.

The templates do not escape: everything a user wrote is escaped here.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from ui import text
from ui.runs import player_view
from ui.runs.history import Past
from ui.runs.manager import Record

_HERE = Path(__file__).parents[1] / "components"
PAGE = 12  # runs of the past shown at once


def queue() -> gr.HTML:
    return gr.HTML(
        queue_of([]),
        html_template=_read("queue.html"),
        js_on_load=_read("pick.js"),
        elem_id="queue",
        apply_default_css=False,
        heading=text.QUEUE,
        words={"up": text.UP, "down": text.DOWN, "remove": text.REMOVE},
    )


def queue_of(records: Sequence[Record]) -> dict[str, Any]:
    """`records` in the order of the queue."""
    return {
        "jobs": [
            {"id": record.id, "name": escape(text.job_name(record.commission)), "place": record.run.place}
            for record in records
        ]
    }


def history() -> gr.HTML:
    return gr.HTML(
        history_of([], "", False),
        html_template=_read("history.html"),
        js_on_load=_read("pick.js"),
        elem_id="history",
        apply_default_css=False,
        heading=text.HISTORY,
        words={
            "none": text.NO_HISTORY,
            "show": text.SHOW,
            "again": text.AGAIN,
            "recall": text.RECALL,
            "remove": text.DELETE,
            "sure": text.SURE,
            "more": text.MORE_HISTORY,
        },
    )


def history_of(runs: Sequence[Past], shown: str, more: bool, note: str = "") -> dict[str, Any]:
    """`shown` is the run on the screen; `more` whether there are others; `note` is about all of them."""
    return {"runs": [_card(past) for past in runs], "shown": shown, "more": more, "note": note}


def saver() -> gr.HTML:
    """Hands a file to the browser whenever its value changes: {"url", "name", "count"}."""
    return gr.HTML(
        {"url": "", "name": ""},
        html_template="",
        js_on_load=_read("saver.js"),
        elem_id="saver",
        apply_default_css=False,
    )


def file_to_save(file: Path, count: int) -> dict[str, Any]:
    return {"url": f"{player_view.address(file)}?v={count}", "name": file.name}


def _card(past: Past) -> dict[str, Any]:
    made, sides = past.made, past.sides
    seconds = int(made.get("frames") or 0) / int(made.get("fps") or 1)
    created = str(past.settings.get("created", "")).replace("T", " ")[:16]
    told = [text.side_in_short(s["codec"], s["ratio"], s["psnr"], s["revisit_psnr"]) for s in sides]
    return {
        "id": escape(past.id),
        "name": escape(str(past.settings.get("prompt") or past.settings.get("model") or "")),
        "made": escape(f"{created} · {seconds:.1f} s"),
        "sides": escape(" | ".join(told) or str(made.get("failed") or "")),
        "picture": player_view.address(past.thumbnail) if past.thumbnail else "",
    }


def _read(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")
