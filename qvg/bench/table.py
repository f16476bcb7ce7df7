"""The tables of a result, as Markdown: this is where the README's come from."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from qvg.bench.measure import Row

Column = tuple[str, Callable[[Row], str]]
Table = tuple[str, Sequence[Column], Sequence[Row]]  # a heading before it


def number(key: str, digits: int = 2, scale: float = 1.0, unit: str = "") -> Callable[[Row], str]:
    """Returns a formatter of the field `key`; a missing field is left empty."""

    def text(row: Row) -> str:
        value = row.get(key)
        return "" if value is None else f"{scale * value:,.{digits}f}{unit}"

    return text


def errors(prefix: str = "") -> Callable[[Row], str]:
    """Returns a formatter of the NMSE of keys and of values."""

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
    """Returns a formatter of mean and standard deviation over scenes, in dB; identical videos have 100."""

    def text(row: Row) -> str:
        if mode not in row["psnr"]:
            return ""
        mean, deviation = row["psnr"][mode][window]
        return "same" if mean >= 100 else f"{mean:.1f} ± {deviation:.1f}"

    return text


def markdown(result: Row, names: Sequence[str] | None = None) -> str:
    """Returns the tables of a result: columns called `names` only, without those empty in every row.

    Raises ValueError for a kind of result without a table and for unknown column names.
    """
    kind = str(result.get("kind"))
    if kind not in TABLES:
        raise ValueError(f"a result of kind {kind!r} has no table; there are {', '.join(TABLES)}")
    tables = list(TABLES[kind](result))
    known = {name for _, columns, _ in tables for name, _ in columns}
    for name in names or ():
        if name not in known:
            raise ValueError(
                f"there is no column {name!r}; there are {', '.join(sorted(filter(None, known)))}"
            )
    parts = []
    for heading, columns, rows in tables:
        wanted = [column for column in columns if names is None or column[0] in names]
        cells = [[name, *(text(row) for row in rows)] for name, text in wanted]
        cells = [column for column in cells if any(column[1:])]
        lines = [f"| {' | '.join(line)} |" for line in zip(*cells, strict=True)]
        parts.append("\n".join([f"{heading}\n", lines[0], "|" + " --- |" * len(cells), *lines[1:], ""]))
    return "\n".join(parts)


def _ops(result: Row) -> Iterator[Table]:
    for shape in result["shapes"].values():
        for key, columns in (("kernels", KERNELS), ("codecs", CODECS)):
            if key in shape:
                yield f"{shape['title']}, {shape['shape']}, {shape['note']}", columns, shape[key]


def _cache(result: Row) -> Iterator[Table]:
    for shape in result["shapes"].values():
        heading = (
            f"{shape['title']}: one layer of {shape['layers']}, {shape['heads']} heads, blocks of "
            f"{shape['block']} latents of {shape['tokens_per_frame']} tokens, {shape['policy']}; "
            f"{shape['attention']}"
        )
        yield heading, HISTORY, shape["rows"]


def _end_to_end(result: Row) -> Iterator[Table]:
    columns: list[Column] = [
        ("codec", lambda row: row["codec"]),
        ("policy", lambda row: row["policy"]),
        ("ratio", number("ratio")),
        ("NMSE K / V", errors()),
        ("attention", number("attention", 4)),
    ]
    for mode, windows in result["rows"][0]["psnr"].items():
        columns += [(f"{mode}, {window}", spread(mode, window)) for window in windows]
    heading = f"PSNR in dB against BF16, mean ± standard deviation over {result['scenes']} scenes"
    yield heading, columns, result["rows"]


TABLES: Mapping[str, Callable[[Row], Iterator[Table]]] = {
    "ops": _ops,
    "cache": _cache,
    "end to end": _end_to_end,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", type=Path, help="what --json wrote")
    parser.add_argument("--columns", nargs="+", metavar="NAME", help="only these")


def run(options: argparse.Namespace) -> None:
    for path in options.files:
        result = json.loads(path.read_text())
        heading = f"{result['card']}, torch {result['torch']}, triton {result['triton']}, {result['date']}"
        try:
            tables = markdown(result, options.columns)
        except ValueError as error:
            raise SystemExit(f"{path}: {error}") from None
        print(f"{heading}, {result['commit']}\n\n{tables}")
