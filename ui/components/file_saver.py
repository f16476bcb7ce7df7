"""A way to hand a file to the browser. Nothing of it is seen."""

from __future__ import annotations

import gradio as gr

from ui.components.base import html


def component() -> gr.HTML:
    """Hands over a file whenever its value changes: {"url", "name"}."""
    return html("file_saver", {"url": "", "name": ""}, elem_id="saver")
