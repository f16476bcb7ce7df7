"""Values of the comparison table: similarity of each side to the first, and PSNR of revisited places."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

from ui import text
from ui.format import decibels, size, times
from ui.runs.side import SPANS_S, Decibels, Figures

_WIDTH, _HEIGHT = 320.0, 84.0  # as in compare_table.html
_PSNR, _SSIM = (15.0, 60.0), (0.5, 1.0)  # ranges of the charts; equal pictures are drawn at the top


class Chart(TypedDict):
    """A line chart with one polyline for each side."""

    title: str
    low: str
    high: str
    lines: list[str]  # points of a polyline for every side


class Table(TypedDict):
    """The value of the component; rows are sides, and their first cell is the codec's name."""

    shown: bool
    columns: list[str]
    rows: list[list[str]]
    note: str
    charts: list[Chart]


def table(sides: Sequence[Figures], fps: int) -> Table:
    """Returns the table of a comparison; an empty one for fewer than two sides."""
    if len(sides) < 2:
        # The caption under its picture describes a single side.
        return nothing()
    frames = max(side["frames"] for side in sides)
    spans = [at for at, span in enumerate(SPANS_S) if span[0] * fps < frames]
    revisit = any(side["revisit_frames"] for side in sides)
    columns = [text.column_span(SPANS_S[at]) for at in spans]
    charted = max(len(side["kv_bytes"]) for side in sides) > 1
    return {
        "shown": frames > 0,
        "columns": [
            text.COLUMN_SIDE, text.COLUMN_MEMORY, text.COLUMN_SMALLER, text.COLUMN_FIRST, *columns,
            text.COLUMN_ALL, text.COLUMN_SSIM, *([text.COLUMN_REVISIT] if revisit else []),
        ],
        "rows": [_row(side, spans, revisit) for side in sides] if frames else [],
        "note": text.against(sides[0]["codec"], sides[0]["drops_from"]),
        "charts": [
            _chart(text.CHART_PSNR, sides, "psnr_by_block", _PSNR),
            _chart(text.CHART_SSIM, sides, "ssim_by_block", _SSIM),
        ]
        if charted
        else [],
    }  # fmt: skip


def caption(side: Figures, fate: str, several: bool) -> str:
    """Returns the line under a side's picture: its size, its similarity, and its dropped history."""
    parts = [fate]
    if several and side["kv_bytes"]:
        parts.append(size(side["kv_bytes"][-1]))
    if side["psnr"] is not None:
        parts.append(text.to_reference(side["psnr"]))
    return " · ".join(filter(None, parts))


def headline(side: Figures) -> str:
    """Returns the number under a side's picture: PSNR of revisited places; empty without any."""
    return "" if side["revisit_psnr"] is None else text.revisit(side["revisit_psnr"])


def _row(side: Figures, spans: Sequence[int], revisit: bool) -> list[str]:
    def cell(psnr: Decibels) -> str:
        return text.NONE if psnr is None else decibels(psnr)

    cells = [side["codec"]]
    cells += [size(side["kv_bytes"][-1]), times(side["ratio"])] if side["kv_bytes"] else ["", ""]
    cells.append(cell(side["psnr_by_block"][0] if side["psnr_by_block"] else None))
    cells += [cell(side["psnr_by_span"][at]) for at in spans]
    cells.append(cell(side["psnr"]))
    cells.append(text.NONE if side["ssim"] is None else f"{side['ssim']:.3f}")
    if revisit:
        cells.append(cell(side["revisit_psnr"]))
    return cells


def _chart(
    title: str,
    sides: Sequence[Figures],
    name: Literal["psnr_by_block", "ssim_by_block"],
    shown: tuple[float, float],
) -> Chart:
    low, high = shown
    across = _WIDTH / max(1, max(len(side[name]) for side in sides) - 1)
    up = (_HEIGHT - 4) / (high - low)

    def line(side: Figures) -> str:
        values = [high if value == "equal" else value for value in side[name]]
        return " ".join(
            f"{index * across:.1f},{_HEIGHT - 2 - (min(high, max(low, value)) - low) * up:.1f}"
            for index, value in enumerate(values)
            if value is not None
        )

    return {"title": title, "low": f"{low:g}", "high": f"{high:g}", "lines": [line(side) for side in sides]}


def nothing() -> Table:
    """Returns the value that shows no table."""
    return {"shown": False, "columns": [], "rows": [], "note": "", "charts": []}
