"""Factory of the page's HTML components: loads their markup, scripts and style, and escapes their values.

Markup is a JavaScript template (`${value.name}`), filled in the browser from `value` and the properties. All
inserted values are escaped there, so values are plain text everywhere: in Python, in scripts, in addresses.
The one exception is markup itself: a template inside a template is written html`<li>${each.name}</li>`, as
with Lit; without the tag it shows as text. Lists need no `join`; null and undefined show nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

HERE = Path(__file__).parent

# `html` returns objects of its own class, so that no value from JSON is mistaken for markup. Gradio parses
# this as a Handlebars template first, so no two opening braces may be adjacent.
_TEMPLATE = """${(() => {
  const SIGNS = new Map([["&", "&amp;"], ["<", "&lt;"], [">", "&gt;"], ['"', "&quot;"], ["'", "&#39;"]]);
  class Markup { constructor(text) { this.text = text; } }
  const shown = (part) => part instanceof Markup ? part.text : Array.isArray(part) ? part.map(shown).join("")
    : String(part ?? "").replace(/[&<>"']/g, (sign) => SIGNS.get(sign));
  const html = (texts, ...parts) => new Markup(String.raw({ raw: texts }, ...parts.map(shown)));
  return html`%s`.text;
})()}"""


def html(
    name: str,
    value: Any = None,
    *,
    elem_id: str | None = None,
    scripts: Sequence[str] | None = None,
    constants: Mapping[str, Any] | None = None,
    server_functions: Sequence[Callable[..., Any]] = (),
    elem_classes: str | None = None,
    folder: Path = HERE,
    **props: Any,
) -> gr.HTML:
    """Returns the component of `name`.html and `name`.js in `folder`; one without markup is invisible.

    `scripts` names other scripts instead, which share one scope in that order, and `constants` are values
    that Python passes to them. `value` and `props` are plain JSON: the template escapes them. Raises
    FileNotFoundError if there is neither markup nor a script.
    """
    markup, code = (
        _read(folder / f"{name}.html"),
        script([name] if scripts is None else scripts, constants, folder),
    )
    if not markup and not code:
        raise FileNotFoundError(f"there is neither {name}.html nor {name}.js in {folder}")
    return gr.HTML(
        value,
        html_template=_TEMPLATE % markup.strip(),
        js_on_load=code or None,
        server_functions=list(server_functions),
        elem_id=elem_id,
        elem_classes=elem_classes,
        apply_default_css=False,
        **props,
    )


def script(names: Sequence[str], constants: Mapping[str, Any] | None = None, folder: Path = HERE) -> str:
    """Returns the scripts of those names in one scope, after `constants`."""
    code = [f"const {name} = {json.dumps(value)};" for name, value in (constants or {}).items()]
    return "\n".join([*code, *(_read(folder / f"{name}.js") for name in names)])


def styles(folder: Path = HERE) -> str:
    """Returns the styles of all components in `folder`."""
    return "".join(_read(file) for file in sorted(folder.glob("*.css")))


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""
