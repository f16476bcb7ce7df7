"""Values of the run lists, queue and history, and of the file saver."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ui import text
from ui.runs import player_view
from ui.runs.history import Past
from ui.runs.manager import Record

PAGE = 12  # past runs shown at once


def queue_of(records: Sequence[Record]) -> dict[str, Any]:
    """Returns the value of the queue; `records` in its order."""
    return {
        "jobs": [
            {"id": record.id, "name": record.run_spec.name, "place": record.run.place} for record in records
        ]
    }


def history_of(runs: Sequence[Past], shown: str, more: bool, note: str = "") -> dict[str, Any]:
    """Returns the value of the history. `shown` is the id of the run on the screen; `more` whether there are
    further runs; `note` is about all of them."""
    return {"runs": [_card(past) for past in runs], "shown": shown, "more": more, "note": note}


def file_to_save(file: Path, count: int) -> dict[str, Any]:
    """Returns the value that makes the browser download `file`; `count` differs for each download."""
    return {"url": f"{player_view.address(file)}?v={count}", "name": file.name}


def _card(past: Past) -> dict[str, Any]:
    made, sides = past.made, past.sides
    seconds = int(made.get("frames") or 0) / int(made.get("fps") or 1)
    created = str(past.settings.get("created", "")).replace("T", " ")[:16]
    sides_in_short = [text.side_in_short(s["codec"], s["ratio"], s["psnr"], s["revisit_psnr"]) for s in sides]
    return {
        "id": past.id,
        "name": str(past.settings.get("prompt") or past.settings.get("model") or ""),
        "made": f"{created} · {seconds:.1f} s",
        "sides": " | ".join(sides_in_short) or str(made.get("failed") or ""),
        "picture": player_view.address(past.thumbnail) if past.thumbnail else "",
    }
