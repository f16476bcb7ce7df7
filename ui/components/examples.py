"""Example runs that start with one click, as a row of cards."""

from __future__ import annotations

from collections.abc import Sequence

import gradio as gr

from ui import text
from ui.components.base import html


def component(examples: Sequence[tuple[str, str]]) -> gr.HTML:
    """Returns the cards. `examples` are names and descriptions. Listeners of `pick` receive the `name`."""
    cards = [{"name": name, "said": said} for name, said in examples]
    return html("examples", elem_id="tries", heading=text.TRY, examples=cards)
