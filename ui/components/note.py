"""Line under a field: its outcome, or what is wrong with it."""

from __future__ import annotations

from typing import Literal, TypedDict

import gradio as gr

from ui import text
from ui.components.base import html


class Note(TypedDict):
    """The value of a note. `picture` is the address of a picture beside the text, or empty."""

    said: str
    kind: Literal["plain", "bad"]
    picture: str


def note(said: str, kind: Literal["plain", "bad"] = "plain", picture: str = "") -> Note:
    """Returns the value of a note; nothing is shown without text."""
    return {"said": said, "kind": kind, "picture": picture}


NOTHING = note("")


def component(elem_id: str, value: Note = NOTHING) -> gr.HTML:
    """Returns the component."""
    return html("note", value, elem_id=elem_id, alt=text.PICTURE_ALT)
