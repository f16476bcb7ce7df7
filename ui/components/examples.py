"""Runs worth one click, as a row of cards."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from ui import text
from ui.components.base import html


def component(examples: Sequence[tuple[str, str]]) -> gr.HTML:
    """`examples` are names and what they show. Tells a listener of `pick` the example's `name`."""
    cards = [{"name": name, "said": said} for name, said in examples]
    return html("examples", elem_id="tries", heading=text.TRY, examples=cards)
