"""Words to click. Each goes into a text field in the browser, so that quick clicks are never lost."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any, Literal

import gradio as gr

Group = tuple[str, Sequence[str]]

_TEMPLATE = """
<div class="chips">${value.groups.map(group =>
  '<div class="group">' + (group.name ? '<h4>' + group.name + '</h4>' : '') + '<div class="row">'
  + group.words.map(word => '<button type="button" class="chip">' + word + '</button>').join('')
  + '</div></div>').join('')}</div>
"""

# Setting the value is what tells Gradio; the count makes a second press of the same word a change.
_SCRIPT = """
element.addEventListener("click", (event) => {
  const chip = event.target.closest(".chip");
  if (!chip) return;
  props.value = { ...props.value, picked: chip.textContent, count: (props.value.count || 0) + 1 };
});
"""

_PUT = {
    "replace": "(chips, field) => chips.picked || field",
    "append": "(chips, field) => chips.picked ? `${field || ''} ${chips.picked}`.trim() : field",
}


def groups(of: Sequence[Group]) -> dict[str, Any]:
    return {
        "groups": [{"name": escape(name), "words": [escape(word) for word in words]} for name, words in of]
    }


def component(of: Sequence[Group], elem_id: str, **shown: Any) -> gr.HTML:
    return gr.HTML(
        groups(of),
        html_template=_TEMPLATE,
        js_on_load=_SCRIPT,
        elem_id=elem_id,
        apply_default_css=False,
        **shown,
    )


def connect(chips: gr.HTML, field: gr.Textbox, mode: Literal["replace", "append"]) -> None:
    chips.change(
        None,
        [chips, field],
        field,
        js=_PUT[mode],
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
