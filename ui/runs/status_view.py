"""Value of the status line, with the model's notes under it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

Kind = Literal["idle", "busy", "done", "error"]


class Status(TypedDict):
    """The value of the status component."""

    kind: Kind
    text: str
    percent: float  # 0 to 100
    notes: list[str]


def line(text: str, kind: Kind = "idle", percent: float = 0.0, notes: Sequence[str] = ()) -> Status:
    """Returns the value that shows `text`; `percent` is a share from 0 to 1."""
    return {
        "kind": kind,
        "text": text,
        "percent": round(100 * min(max(percent, 0.0), 1.0), 1),
        "notes": [note for note in notes if note],
    }
