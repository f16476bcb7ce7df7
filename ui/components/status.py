"""Status line, with the model's notes under it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from ui.components.base import html


def component(value: Mapping[str, Any]) -> gr.HTML:
    """Returns the status line. `ui.runs.status_view` makes the value."""
    return html("status", dict(value), elem_id="status")
