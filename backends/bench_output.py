"""Arguments, rows of figures and the final JSON object, shared by the benchmarks of all backends."""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from qvg import PRESETS

Row = dict[str, Any]
GIB = 1 << 30


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds `--random-weights`, `--tiny`, `--codec` and `--json`."""
    parser.add_argument(
        "--random-weights", action="store_true", help="full size without files; frames are noise"
    )
    parser.add_argument("--tiny", action="store_true", help="with random weights, at a size for CPUs")
    parser.add_argument(
        "--codec", nargs="+", default=["BF16", "QVG INT2"], choices=list(PRESETS), metavar="PRESET"
    )
    parser.add_argument("--json", type=Path, help="a file for the JSON object of the last line")


def rounded(value: Any) -> Any:
    """Returns `value` with the floats in its dictionaries and lists rounded to four decimals."""
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return round(value, 4) if isinstance(value, float) else value


def line(row: Row, without: Collection[str] = ()) -> str:
    """Returns the names and values of a row, except `without`, on one line."""
    return "  ".join(f"{name} {value}" for name, value in rounded(row).items() if name not in without)


def finish(result: Row, file: Path | None) -> None:
    """Prints a benchmark's result as one JSON object, and writes it to `file` unless that is None."""
    text = json.dumps(rounded(result))
    if file is not None:
        file.write_text(text + "\n")
    print(text)
