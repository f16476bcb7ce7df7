"""Name and purpose of the page."""

from __future__ import annotations

import gradio as gr

from ui import text
from ui.components.base import html


def component() -> gr.HTML:
    """Returns the component."""
    return html("brand", elem_classes="brand", title=text.TITLE, tagline=text.TAGLINE)
