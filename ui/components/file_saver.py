"""Downloader of files to the browser. The component is invisible."""

from __future__ import annotations

import gradio as gr

from ui.components.base import html


def component() -> gr.HTML:
    """Returns the component. Downloads a file whenever its value changes: {"url", "name"}."""
    return html("file_saver", {"url": "", "name": ""}, elem_id="saver")
