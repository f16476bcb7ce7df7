"""How the sides of a run compare: a table and two charts."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui import text
from ui.components.base import html


def component(value: dict[str, Any]) -> gr.HTML:
    """`ui.runs.compare_view` makes the value."""
    return html("compare_table", value, elem_id="compare", heading=text.COMPARISON)
