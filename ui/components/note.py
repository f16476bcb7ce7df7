"""A line under a field: what it comes to, or what is wrong with it."""

from __future__ import annotations

from typing import Literal, TypedDict

import gradio as gr

from ui import text
from ui.components.base import html


class Note(TypedDict):
    """`picture` is the address of one that is shown beside the words, or empty."""

    said: str
    kind: Literal["plain", "bad"]
    picture: str


def note(said: str, kind: Literal["plain", "bad"] = "plain", picture: str = "") -> Note:
    """Returns a component's value; without words nothing is shown."""
    return {"said": said, "kind": kind, "picture": picture}


NOTHING = note("")


def component(elem_id: str, value: Note = NOTHING) -> gr.HTML:
    return html("note", value, elem_id=elem_id, alt=text.PICTURE_ALT)
