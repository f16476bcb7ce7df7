"""Plots of a report: cache bytes against the length of the video, PSNR against time."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from backends.report.folder import PLOTS, whole
from qvg import BF16, PRESETS
from qvg.metrics import psnr_of_mse

Row = dict[str, Any]
NO_PLOTS = "The plots are left out: pip install matplotlib, and the same command adds them."
# Lines and text on white and on the page's dark background.
_THEMES: Mapping[str, dict[str, str]] = {
    "": {"ink": "#2b2d31", "grid": "#e3e4e8"},
    "-dark": {"ink": "#c9ccd3", "grid": "#34363b"},
}
_COLORS = ("#8a8f98", "#2a9d8f", "#e07b00", "#5b7fff", "#c2417c", "#8a6d3b", "#7cb342", "#9c6ade")
_HIGHEST = 60.0  # dB: equal frames are drawn there


def draw(folder: Path, pairs: Sequence[Row], codecs: Sequence[str]) -> str:
    """Writes the plots, light and dark. Returns a sentence saying why there are none, or ""."""
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ImportError:
        return NO_PLOTS
    matplotlib.use("agg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    (folder / PLOTS).mkdir(exist_ok=True)
    for theme, colors in _THEMES.items():
        style = {
            "font.size": 9, "text.color": colors["ink"], "axes.labelcolor": colors["ink"],
            "xtick.color": colors["ink"], "ytick.color": colors["ink"], "axes.edgecolor": colors["ink"],
            "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
            "grid.color": colors["grid"], "axes.axisbelow": True, "svg.hashsalt": "report",
        }  # fmt: skip
        for name, panel in (("kv-bytes", _bytes), ("psnr", _psnr)):
            with pyplot.rc_context(style):
                figure, axes = pyplot.subplots(figsize=(4.8, 3.1), layout="constrained")
                panel(axes, pairs, codecs)
                axes.margins(x=0.02)
                if axes.get_lines():
                    axes.legend(frameon=False, fontsize=8)
                target = folder / PLOTS / f"{name}{theme}.svg"
                options: dict[str, Any] = {"format": "svg", "transparent": True, "metadata": {"Date": None}}
                whole(target, lambda part, figure=figure, options=options: figure.savefig(part, **options))
                pyplot.close(figure)
    return ""


def _bytes(axes: Any, pairs: Sequence[Row], codecs: Sequence[str]) -> None:
    """Plots bytes of the first prompt: they do not depend on the content of a video."""
    scale = 2**30 if max((max(row["kv_bytes"], default=0) for row in pairs), default=0) >= 2**30 else 2**20
    for color, codec in zip(_colors(codecs), codecs, strict=True):
        row = next((row for row in pairs if row["codec"] == codec and row["kv_bytes"]), None)
        if row is not None:
            held = [bytes_ / scale for bytes_ in row["kv_bytes"]]
            axes.plot(row["frames_by_block"], held, label=codec, color=color, linewidth=1.8)
    axes.set_title(f"KV cache, {'GiB' if scale == 2**30 else 'MiB'}", fontsize=9, loc="left")
    axes.set_xlabel("frames of video")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)


def _psnr(axes: Any, pairs: Sequence[Row], codecs: Sequence[str]) -> None:
    """Plots the PSNR of a block, from its mean squared error over all prompts."""
    for color, codec in zip(_colors(codecs), codecs, strict=True):
        rows = [row for row in pairs if row["codec"] == codec and row["quality"]]
        if PRESETS[codec] == BF16 or not rows:
            continue
        ends = max((row["frames_by_block"] for row in rows), key=len)
        at, values = [], []
        for start, end in zip([0, *ends], ends, strict=False):
            errors = [error for row in rows for error in row["quality"]["mse"][start:end]]
            if errors:
                mse = float(np.mean(errors))
                at.append((start + end) / 2 / rows[0]["fps"])
                values.append(min(_HIGHEST, psnr_of_mse(mse, 255)))
        axes.plot(at, values, label=codec, color=color, linewidth=1.8)
    axes.set_title(f"PSNR to BF16, dB; equal is drawn at {_HIGHEST:.0f}", fontsize=9, loc="left")
    axes.set_xlabel("seconds of video")
    axes.set_xlim(left=0)


def _colors(codecs: Sequence[str]) -> list[str]:
    return [_COLORS[number % len(_COLORS)] for number in range(len(codecs))]
