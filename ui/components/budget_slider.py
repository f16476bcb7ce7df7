"""The memory budget by hand: a slider over a part of what BF16 would take, and budgets worth a click."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr

from backends.base import BackendSpec
from ui import text
from ui.form.budget import CARDS, MIB, bf16_bytes

_HERE = Path(__file__).parent
ALL = 100  # per cent of what BF16 would take: no limit


def value(spec: BackendSpec, blocks: int, budget_mib: int) -> dict[str, Any]:
    """Where the slider stands for a budget of so many MiB, 0 for none."""
    whole = bf16_bytes(spec, blocks)
    share = min(ALL, round(ALL * budget_mib * MIB / whole)) if budget_mib and whole else ALL
    # The budget itself is not shown. It makes an answer another value than before the slider was moved by
    # hand: the page draws only what changes.
    return {"share": share, "bf16_mib": whole / MIB, "budget_mib": budget_mib}


def component(spec: BackendSpec) -> gr.HTML:
    """Tells a listener of `pick` the `share` in per cent, or the `name` of a budget."""
    return gr.HTML(
        value(spec, spec.default_blocks, 0),
        html_template=(_HERE / "dial.html").read_text(encoding="utf-8"),
        js_on_load=(_HERE / "dial.js").read_text(encoding="utf-8"),
        elem_id="budgets",
        apply_default_css=False,
        names=[text.NO_LIMIT, *CARDS],
        words={"label": text.BUDGET_SHARE, "none": text.NO_LIMIT, "of": text.OF_BF16},
    )
