"""One line in words of what is going on, with the model's notes under it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

Kind = Literal["idle", "busy", "done", "error"]


def line(text: str, kind: Kind = "idle", percent: float = 0.0, notes: Sequence[str] = ()) -> dict[str, Any]:
    return {
        "kind": kind,
        "text": text,
        "percent": round(100 * min(max(percent, 0.0), 1.0), 1),
        "notes": [note for note in notes if note],
    }
