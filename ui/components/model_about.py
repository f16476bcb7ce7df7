"""Description of a model, with its license and whether it is downloaded."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui import text
from ui.components.base import html


def component(value: dict[str, Any]) -> gr.HTML:
    """Returns the description. `value` is {"ready", "summary", "rest"}; `rest` is in small print."""
    return html("model_about", value, words={"ready": text.READY, "absent": text.NOT_HERE})
