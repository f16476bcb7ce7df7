"""One line in words of what is going on, with the model's notes under it.

Its words may quote the user's, and the template does not escape: everything is escaped here.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Literal

import gradio as gr

Kind = Literal["idle", "busy", "done", "error"]

_TEMPLATE = """
<div class="status" data-kind="${value.kind}">
  <div class="track" aria-hidden="true"><i style="width:${value.percent}%"></i></div>
  <p class="line" role="${value.kind === 'error' ? 'alert' : 'status'}">${value.text}</p>
  ${value.notes.map(note => '<p class="note">' + note + '</p>').join('')}
</div>
"""


# In one column the line is far below the button that was pressed.
_SCRIPT = """
watch("value", () => {
  if (props.value.kind !== "error" || innerWidth >= 900) return;
  element.scrollIntoView({ behavior: "smooth", block: "center" });
});
"""


def line(text: str, kind: Kind = "idle", percent: float = 0.0, notes: Sequence[str] = ()) -> dict[str, Any]:
    return {
        "kind": kind,
        "text": escape(text),
        "percent": round(100 * min(max(percent, 0.0), 1.0), 1),
        "notes": [escape(note) for note in notes if note],
    }


def component(text: str) -> gr.HTML:
    return gr.HTML(
        line(text), html_template=_TEMPLATE, js_on_load=_SCRIPT, elem_id="status", apply_default_css=False
    )
