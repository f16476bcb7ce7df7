"""The page report.html: the whole report, for a screen of any width, light or dark.

Jinja escapes all values; plots are embedded, videos linked by relative path.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from jinja2 import Environment, StrictUndefined

from backends.report import quality
from backends.report.folder import PLOTS
from backends.sizes import memory_size

_TEMPLATE = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")
_PLOTS = (("kv-bytes", "Bytes held by the KV cache over a video"), ("psnr", "PSNR to BF16 over a video"))
_PARTS = ("denoise", "read", "encode", "decode")
NONE = "–"


def render(report: Mapping[str, Any], folder: Path) -> str:
    """Returns the page for the content of `report.json`; its plots are in `folder`."""
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        size=_size, number=_number, psnr=_psnr, ssim=_fixed(3), lpips=_fixed(3), path=quote
    )
    template = environment.from_string(_TEMPLATE)
    return template.render(
        report=report,
        windows=list(quality.WINDOWS),
        metrics=[name for name in ("psnr", "ssim", "lpips") if name != "lpips" or not report["lpips"]],
        parts=[name for name in (*_memory_parts(report), *_PARTS) if _measured(report, name)],
        plots=[plot for name, title in _PLOTS if (plot := _plot(folder, name, title))],
        prompts=[_prompt(report, number) for number in range(len(report["folders"]))],
        identical=_identical(report),
        beside=lambda number: (folder / report["folders"][number] / "side-by-side.mp4").is_file(),
        gpu=any(row["peak_device_bytes"] for row in report["codecs"]),
    )


def _prompt(report: Mapping[str, Any], number: int) -> dict[str, Any]:
    task = report["settings"]["tasks"][number]
    rows = [row for row in report["pairs"] if row["task"] == number]
    return {**task, "number": number, "folder": report["folders"][number], "rows": rows}


def _identical(report: Mapping[str, Any]) -> str:
    """Returns a sentence: from which frame on each codec differs from BF16."""
    counts = [row["quality"]["identical_frames"] for row in report["pairs"] if row["quality"]]
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    frames = f"{low}" if low == high else f"{low} to {high}"
    return f"Here the first {frames} frames are the same to the bit."


def _memory_parts(report: Mapping[str, Any]) -> list[str]:
    """Returns the measured stages in which generators rebuild their history."""
    return [name for name in ("context", "condition") if _measured(report, name)]


def _measured(report: Mapping[str, Any], name: str) -> bool:
    return any(row["ms"].get(name) is not None for row in report["codecs"])


def _plot(folder: Path, name: str, title: str) -> dict[str, str] | None:
    """Returns a plot as data URLs, light and dark; None if it was not drawn."""
    plot = {"title": title}
    for theme, suffix in (("light", ""), ("dark", "-dark")):
        file = folder / PLOTS / f"{name}{suffix}.svg"
        if not file.is_file():
            return None
        data = base64.b64encode(file.read_bytes()).decode("ascii")
        plot[theme] = f"data:image/svg+xml;base64,{data}"
    return plot


def _size(value: int | None) -> str:
    if value is None:
        return NONE
    return memory_size(value)


def _number(value: float | None, digits: int = 0) -> str:
    return NONE if value is None else f"{value:,.{digits}f}"


def _psnr(value: float | str | None) -> str:
    return NONE if value is None else "equal" if value == "equal" else f"{value:.1f}"


def _fixed(digits: int) -> Any:
    return lambda value: NONE if value is None else f"{value:.{digits}f}"
