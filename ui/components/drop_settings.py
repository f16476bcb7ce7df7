"""The whole page as a place to drop a file of ours on. Nothing of it is seen."""

from __future__ import annotations

import gradio as gr

from ui.components.base import html


def component(field: str) -> gr.HTML:
    """`field` is the `elem_id` of the file field that takes it."""
    return html("drop_settings", elem_id="drop-settings", field=field)
