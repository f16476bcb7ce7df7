"""The device that generates, by name and size."""

from __future__ import annotations

import gradio as gr

from ui import text
from ui.components.base import html


def component() -> gr.HTML:
    """The value is a sentence."""
    return html("device", text.DEVICE_UNKNOWN, elem_id="device")
