"""Toggle between the light and the dark theme, which remembers the choice."""

from __future__ import annotations

import gradio as gr

from ui import text
from ui.components.base import html


def component() -> gr.HTML:
    """Returns the component."""
    return html("theme_toggle", elem_id="theme", light=text.LIGHT, dark=text.DARK)
