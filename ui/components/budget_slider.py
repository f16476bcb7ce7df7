"""Slider for the memory budget, as a share of the BF16 cache, with buttons for common budgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ui import text
from ui.components.base import html


def component(value: dict[str, Any], names: Sequence[str]) -> gr.HTML:
    """Tells a listener of `pick` the `share` in per cent, or which of `names` was clicked as `name`.

    The value is `share` and `bf16_mib`, what all of it is.
    """
    return html(
        "budget_slider",
        value,
        elem_id="budgets",
        names=list(names),
        words={"label": text.BUDGET_SHARE, "none": text.NO_LIMIT, "of": text.OF_BF16},
    )
