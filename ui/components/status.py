"""One line in words of what is going on, with the model's notes under it."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui.components.base import html


def component(value: dict[str, Any]) -> gr.HTML:
    """The value is `kind` (idle, busy, done or error), `text`, `percent` (0 to 100) and `notes`."""
    return html("status", value, elem_id="status")
