"""Lists of runs with buttons: queue and history.

Listeners of `pick` receive the `action` of the button and the `id` of the run.
"""

from __future__ import annotations

from typing import Any

import gradio as gr

from ui import text
from ui.components.base import html

_SCRIPTS = ("run_lists",)


def queue(value: dict[str, Any]) -> gr.HTML:
    """Returns the list of queued runs."""
    return html(
        "queue",
        value,
        scripts=_SCRIPTS,
        elem_id="queue",
        heading=text.QUEUE,
        words={"up": text.UP, "down": text.DOWN, "remove": text.REMOVE},
    )


def history(value: dict[str, Any]) -> gr.HTML:
    """Returns the list of past runs."""
    return html(
        "history",
        value,
        scripts=_SCRIPTS,
        elem_id="history",
        heading=text.HISTORY,
        words={
            "none": text.NO_HISTORY,
            "show": text.SHOW,
            "again": text.AGAIN,
            "recall": text.RECALL,
            "remove": text.DELETE,
            "sure": text.SURE,
            "more": text.MORE_HISTORY,
        },
    )
