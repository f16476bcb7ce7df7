"""What is behind the device's name: the report on this machine, under a disclosure."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui import text
from ui.components.base import html


def component(value: dict[str, Any]) -> gr.HTML:
    """Returns the disclosure, closed. It tells listeners of `pick` that it has been opened."""
    return html("machine_report", value, elem_id="machine", words=text.MACHINE)
