"""What a model is, whether it is here, and under which licence."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui import text
from ui.components.base import html


def component(value: dict[str, Any]) -> gr.HTML:
    """The value is `ready`, `summary`, and the `rest` in small print."""
    return html("model_about", value, words={"ready": text.READY, "absent": text.NOT_HERE})
