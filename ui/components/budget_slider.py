"""Slider for the memory budget, as a share of the BF16 cache, with buttons for common budgets."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from backends.base import BackendSpec
from ui import text
from ui.form import budget_share

_HERE = Path(__file__).parent


def component(spec: BackendSpec) -> gr.HTML:
    """Returns the slider. Its `pick` event has the `share` in percent, or the `name` of a budget."""
    return gr.HTML(
        budget_share.value(spec, spec.default_blocks, 0),
        html_template=(_HERE / "dial.html").read_text(encoding="utf-8"),
        js_on_load=(_HERE / "dial.js").read_text(encoding="utf-8"),
        elem_id="budgets",
        apply_default_css=False,
        names=[text.NO_LIMIT, *budget_share.CARDS],
        words={"label": text.BUDGET_SHARE, "none": text.NO_LIMIT, "of": text.OF_BF16},
    )
