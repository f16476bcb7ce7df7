"""What every side's KV cache holds, next to what BF16 would, as bars, a curve and figures."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui import text
from ui.components.base import html


def component(value: dict[str, Any]) -> gr.HTML:
    """`ui.runs.gauge_view` makes the value."""
    return html(
        "memory_gauge",
        value,
        elem_id="gauge",
        words={
            "label": text.GAUGE,
            "would": text.BF16_WOULD,
            "projection": text.BF16_PROJECTION,
            "block": text.A_BLOCK,
        },
    )
