"""A panel that the page does not have: its files here, and one row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ui.runs.panels import Measured, Panel

FOLDER = Path(__file__).parent


def _value(run: Measured) -> dict[str, Any]:
    prompt = run.run_spec.request.prompt if run.run_spec else ""
    return {"prompt": prompt, "sides": [side["codec"] for side in run.figures]}


ROW = Panel("echo", str(FOLDER / "prompt_echo"), {"heading": "Asked for"}, _value)
