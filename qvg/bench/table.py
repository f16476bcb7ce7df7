"""The tables of a result, as Markdown: this is where the README's come from."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from qvg.bench.measure import Row

Column = tuple[str, Callable[[Row], str]]


def number(key: str, digits: int = 2, scale: float = 1.0, unit: str = "") -> Callable[[Row], str]:
    """Formats a field; a field that is missing is left empty."""

    def text(row: Row) -> str:
        value = row.get(key)
        return "" if value is None else f"{scale * value:,.{digits}f}{unit}"

    return text


def errors(prefix: str = "") -> Callable[[Row], str]:
    """NMSE of keys and of values."""

    def text(row: Row) -> str:
        if f"{prefix}nmse_k" not in row:
            return ""
        return f"{row[f'{prefix}nmse_k']:.4f} / {row[f'{prefix}nmse_v']:.4f}"

    return text


KERNELS: tuple[Column, ...] = (
    ("operation", lambda row: row["op"]),
    ("ms", number("ms", 3)),
    ("in a row", number("wall_ms", 3)),
    ("GB/s", number("gb_s", 0)),
    ("of a copy", number("of_copy", 0, 100, " %")),
    ("NMSE K / V", errors()),
    ("authors' ms", number("reference_ms", 3)),
    ("authors' in a row", number("reference_wall_ms", 3)),
    ("authors' NMSE K / V", errors("reference_")),
)
CODECS: tuple[Column, ...] = (
    ("codec", lambda row: row["codec"]),
    ("ratio", number("ratio")),
    ("encode ms", number("encode_ms", 3)),
    ("decode ms", number("decode_ms", 3)),
    ("and rotate K", number("rotate_ms", 3)),
    ("GB/s", number("gb_s", 0)),
    ("of a copy", number("of_copy", 0, 100, " %")),
    ("NMSE K / V", errors()),
)

HISTORY: tuple[Column, ...] = (
    ("latents", lambda row: str(row["latents"])),
    ("history", lambda row: row["codec"]),
    ("ms", number("ms")),
    ("against one call", number("over_dense", 3, unit="x")),
    ("in a row", number("wall_ms")),
    ("extra MiB", number("extra_mib", 0)),
    ("held MiB a layer", number("held_mib", 1)),
    ("of them on the host", number("host_mib", 1)),
    ("GiB, all layers", number("model_gib")),
    ("ratio", number("ratio")),
    ("decode ms", number("decode_ms")),
    ("of one call", number("decode_share", 1, 100, " %")),
    ("encode ms a span", number("encode_ms")),
    ("error", number("error", 4)),
    ("", lambda row: row.get("skipped") or row.get("attention", "")),
)


def spread(mode: str, window: str) -> Callable[[Row], str]:
    """Mean and standard deviation over scenes, in dB; videos that are equal to the bit have 100."""

    def text(row: Row) -> str:
        if mode not in row["psnr"]:
            return ""
        mean, deviation = row["psnr"][mode][window]
        return "same" if mean >= 100 else f"{mean:.1f} ± {deviation:.1f}"

    return text


def grid(columns: Sequence[Column], rows: Sequence[Row]) -> str:
    """A Markdown table; columns that are empty in every row are left out."""
    cells = [[name, *(text(row) for row in rows)] for name, text in columns]
    cells = [column for column in cells if any(column[1:])]
    lines = [f"| {' | '.join(line)} |" for line in zip(*cells, strict=True)]
    return "\n".join([lines[0], "|" + " --- |" * len(cells), *lines[1:]])


def markdown(result: Row) -> str:
    """Raises ValueError for a kind of result that has no table."""
    kind = str(result.get("kind"))
    if kind not in TABLES:
        raise ValueError(f"a result of kind {kind!r} has no table; there are {', '.join(TABLES)}")
    return TABLES[kind](result)


def _shapes(result: Row, key: str, columns: Sequence[Column]) -> str:
    parts = []
    for shape in result["shapes"].values():
        if key in shape:
            parts.append(
                f"{shape['title']}, {shape['shape']}, {shape['note']}\n\n{grid(columns, shape[key])}\n"
            )
    return "\n".join(parts)


def _ops(result: Row) -> str:
    return _shapes(result, "kernels", KERNELS)


def _codecs(result: Row) -> str:
    return _shapes(result, "codecs", CODECS)


def _cache(result: Row) -> str:
    parts = []
    for shape in result["shapes"].values():
        heading = (
            f"{shape['title']}: one layer of {shape['layers']}, {shape['heads']} heads, blocks of "
            f"{shape['block']} latents of {shape['tokens_per_frame']} tokens, {shape['policy']}; "
            f"{shape['attention']}"
        )
        parts.append(f"{heading}\n\n{grid(HISTORY, shape['rows'])}\n")
    return "\n".join(parts)


def _end_to_end(result: Row) -> str:
    psnr = result["rows"][0]["psnr"]
    columns: list[Column] = [
        ("codec", lambda row: row["codec"]),
        ("policy", lambda row: row["policy"]),
        ("ratio", number("ratio")),
        ("NMSE K / V", errors()),
        ("attention", number("attention", 4)),
    ]
    for mode, windows in psnr.items():
        columns += [(f"{mode}, {window}", spread(mode, window)) for window in windows]
    return grid(columns, result["rows"]) + "\n"


TABLES: Mapping[str, Callable[[Row], str]] = {
    "ops": _ops,
    "ops codecs": _codecs,
    "cache": _cache,
    "end to end": _end_to_end,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, help="what --json wrote")


def run(options: argparse.Namespace) -> None:
    for path in options.files:
        result = json.loads(path.read_text())
        heading = f"{result['card']}, torch {result['torch']}, triton {result['triton']}, {result['date']}"
        print(f"{heading}, {result['commit']}\n")
        print(markdown(result))
        if result["kind"] == "ops":
            print(_codecs(result))
