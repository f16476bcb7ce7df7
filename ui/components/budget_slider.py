"""Slider for the memory budget, as a share of the BF16 cache, with buttons for common budgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gradio as gr

from ui import text
from ui.components.base import html


def component(value: dict[str, Any], names: Sequence[str]) -> gr.HTML:
    """Returns the slider. Listeners of `pick` receive `share` in percent, or the clicked one of `names` as
    `name`.

    `value` is {"share", "bf16_mib"}; `bf16_mib` is the whole BF16 cache in MiB.
    """
    return html(
        "budget_slider",
        value,
        elem_id="budgets",
        names=list(names),
        words={"label": text.BUDGET_SHARE, "none": text.NO_LIMIT, "of": text.OF_BF16},
    )
