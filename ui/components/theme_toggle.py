"""A button between light and dark, which remembers."""

from __future__ import annotations

import gradio as gr

from ui import text
from ui.components.base import html


def component() -> gr.HTML:
    return html("theme_toggle", elem_id="theme", light=text.LIGHT, dark=text.DARK)
