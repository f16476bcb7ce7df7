"""The picture of a result of `cache`: bytes and milliseconds against the length of the video."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qvg.bench.measure import Row

COLOURS = {"BF16": "#8a8f98", "QVG INT2": "#3f51b5", "QVG-Plus INT2": "#00897b", "QVG-Max": "#e07b00"}
OTHERS = ("#ad1457", "#6d4c41", "#7cb342", "#5e35b1")
ONE_CALL = "one BF16 call"


def draw(result: Row, shape: Row, path: Path) -> None:
    """Writes a picture of 1600 x 700 pixels, to be shown at half of that.

    Raises SystemExit where matplotlib is not installed.
    """
    try:
        import matplotlib  # pyright: ignore[reportMissingImports, reportMissingModuleSource]
    except ModuleNotFoundError:
        raise SystemExit("The picture is drawn by matplotlib: pip install matplotlib") from None
    matplotlib.use("agg")
    from matplotlib import pyplot  # pyright: ignore[reportMissingImports, reportMissingModuleSource]

    style: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
             "grid.color": "#e6e8eb", "axes.axisbelow": True}  # fmt: skip
    with pyplot.rc_context(style):
        figure, (memory, speed) = pyplot.subplots(1, 2, figsize=(8, 3.5), layout="constrained")
        figure.suptitle(f"{shape['title']}, {result['card']}", fontsize=10)
        names = list(dict.fromkeys(row["codec"] for row in shape["rows"]))
        spare = iter(OTHERS)
        for name in names:
            rows = [row for row in shape["rows"] if row["codec"] == name and "ms" in row]
            colour = COLOURS.get(name) or ("#30343a" if name == ONE_CALL else next(spare, "#30343a"))
            _line(speed, rows, name, "ms", colour, dashed=name == ONE_CALL)
            if name != ONE_CALL:
                _line(memory, rows, name, "model_gib", colour)
        memory.set_title(f"KV cache of {shape['layers']} layers, GiB", fontsize=9, loc="left")
        speed.set_title("attention of a layer and block, ms", fontsize=9, loc="left")
        for axes in (memory, speed):
            axes.set_xlabel("frames of video")
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
            axes.legend(frameon=False, fontsize=8, loc="upper left")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=200, facecolor="white")
        pyplot.close(figure)


def _line(axes: Any, rows: Sequence[Row], name: str, key: str, colour: str, dashed: bool = False) -> None:
    x, y = [row["video_frames"] for row in rows], [row[key] for row in rows]
    axes.plot(x, y, label=name, color=colour, marker="o", markersize=3, linestyle="--" if dashed else "-")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, help="what `cache --json` wrote")
    parser.add_argument("--geometry", nargs="+", help="models to draw; those in the file")
    parser.add_argument("--out", type=Path, help="folder of the pictures; that of the file")


def run(options: argparse.Namespace) -> None:
    for path in options.files:
        result = json.loads(path.read_text())
        if result["kind"] != "cache":
            raise SystemExit(f"{path} is a result of {result['kind']}, not of cache")
        for name, shape in result["shapes"].items():
            if not options.geometry or name in options.geometry:
                picture = (options.out or path.parent) / f"{path.stem}-{name}.png"
                draw(result, shape, picture)
                print(picture)
