"""List of models with sizes, licenses and progress, and buttons to download and delete them."""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui import text
from ui.components.base import html


def component(value: dict[str, Any]) -> gr.HTML:
    """Returns the list. Listeners of `pick` receive the model's `id`, the `action`, whether the license was
    `accepted`, and the `token` typed.

    `ui.runs.downloads` makes the value.
    """
    return html("models", value, elem_id="models", words=text.MODELS)
