"""Machine report behind the device's name, in a disclosure."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui import text
from ui.components.base import html


def component(value: dict[str, Any]) -> gr.HTML:
    """Returns the disclosure, closed. It triggers `pick` when it is opened."""
    return html("machine_report", value, elem_id="machine", words=text.MACHINE)
