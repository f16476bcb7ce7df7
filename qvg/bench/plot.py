"""The picture of a result of `cache`: bytes and milliseconds against the length of the video."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qvg.bench.measure import Row

ONE_CALL = "one BF16 call"
EIGHT_BIT = ", 8-bit attention"
COLOURS = {
    ONE_CALL: "#30343a",
    "BF16": "#8a8f98",
    "QVG INT2": "#3f51b5",
    "QVG-Plus INT2": "#00897b",
    "QVG-Max": "#e07b00",
}
OTHERS = ("#ad1457", "#6d4c41", "#7cb342", "#5e35b1")


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

    rows = shape["rows"]
    panels = [
        ("model_gib", f"KV cache of {shape['layers']} layers, GiB", True),
        ("ms", "attention of one layer, ms", False),
    ]
    if any("extra_mib" in row for row in rows):
        panels.append(("extra_mib", "memory it takes meanwhile, MiB", True))
    style: Any = {
        "font.size": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e6e8eb",
        "axes.axisbelow": True,
    }
    with pyplot.rc_context(style):
        figure, every = pyplot.subplots(1, len(panels), figsize=(8, 3.5), layout="constrained")
        figure.suptitle(f"{shape['title']} on {result['card']}", fontsize=10)
        spare = iter(OTHERS)
        names = list(dict.fromkeys(row["codec"] for row in rows))
        colours: dict[str, str] = {}
        for name in names:
            codec = name.removesuffix(EIGHT_BIT)
            colours[name] = colours.get(codec) or COLOURS.get(codec) or next(spare, "#30343a")
        for axes, (key, title, caches) in zip(every, panels, strict=True):
            for place, name in enumerate(names):
                some = [row for row in rows if row["codec"] == name and key in row]
                # One call has no cache, and 8-bit attention has its codec's.
                same = key == "model_gib" and name.endswith(EIGHT_BIT)
                if some and not same and not (caches and name == ONE_CALL):
                    # Thinner on top of thicker: lines that coincide are still seen.
                    _line(axes, some, key, colours[name], width=max(1.0, 3.5 - 0.6 * place))
            axes.set_title(title, fontsize=8, loc="left")
            axes.set_xlabel("frames of video")
            axes.set_xlim(left=0)
            axes.margins(y=0.1)
            axes.set_ylim(bottom=0)
        lines = every[1].get_lines()
        labels = [line.get_label() for line in lines]
        figure.legend(lines, labels, frameon=False, ncols=min(4, len(labels)), loc="outside lower center")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=200, facecolor="white")
        pyplot.close(figure)


def _line(axes: Any, rows: Sequence[Row], key: str, colour: str, width: float) -> None:
    x, y = [row["video_frames"] for row in rows], [row[key] for row in rows]
    name = rows[0]["codec"]
    style = "--" if name.endswith(EIGHT_BIT) else "-"
    axes.plot(x, y, style, label=name, color=colour, linewidth=width, marker="o", markersize=width + 2)


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
