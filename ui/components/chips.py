"""Clickable words. The browser puts each into a text field, so that quick clicks are never lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import gradio as gr

from ui.components.base import html

Group = tuple[str, Sequence[str]]

_PUT = {
    "replace": "(chips, field) => chips.picked || field",
    "append": "(chips, field) => chips.picked ? `${field || ''} ${chips.picked}`.trim() : field",
}


def groups(of: Sequence[Group]) -> dict[str, Any]:
    """Returns the value that shows these groups of words."""
    return {"groups": [{"name": name, "words": list(words)} for name, words in of]}


def component(of: Sequence[Group], elem_id: str) -> gr.HTML:
    """Returns the component."""
    return html("chips", groups(of), elem_id=elem_id)


def connect(chips: gr.HTML, field: gr.Textbox, mode: Literal["replace", "append"]) -> None:
    """Puts clicked words into `field`, in place of its text or after it."""
    chips.change(
        None,
        [chips, field],
        field,
        js=_PUT[mode],
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
