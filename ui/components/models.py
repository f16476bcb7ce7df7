"""Which models are here, how much they are, under which licence, with buttons to download and delete them."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui import text
from ui.components.base import html


def component(value: dict[str, Any]) -> gr.HTML:
    """Tells a listener of `pick` the model's `id`, the `action`, what was `accepted`, and the `token` typed.

    `ui.runs.downloads` makes the value.
    """
    return html("models", value, elem_id="models", words=text.MODELS)
