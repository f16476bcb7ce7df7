"""Drop target for files of this program: the whole page. The component is invisible."""

from __future__ import annotations

import gradio as gr

from ui.components.base import html


def component(field: str) -> gr.HTML:
    """Returns the component. `field` is the `elem_id` of the file field that receives the file."""
    return html("drop_settings", elem_id="drop-settings", field=field)
