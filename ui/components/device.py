"""Name and memory size of the device that generates."""

from __future__ import annotations

import gradio as gr

from ui import text
from ui.components.base import html


def component() -> gr.HTML:
    """Returns the component; its value is a sentence."""
    return html("device", text.DEVICE_UNKNOWN, elem_id="device")
