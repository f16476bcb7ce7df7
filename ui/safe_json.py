"""Parser for untrusted JSON files: all values that it returns can be encoded and sent to a browser."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

MOST_BYTES = 1 << 20  # of a file: parsing a megabyte takes a second and tens of megabytes of memory
_EXACT = 1 << 53  # above, JavaScript rounds integers
_MAX_DIGITS = 17  # longer integers are larger than that
_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")  # a lone surrogate, or the escape of one


class TooLong(ValueError):
    """Error for more than `MOST_BYTES` of JSON."""


def read(file: Path) -> Any:
    """Returns a file's JSON as `loads` does. Raises OSError, ValueError, and TooLong before reading."""
    if file.stat().st_size > MOST_BYTES:
        raise TooLong
    return loads(file.read_bytes())


def loads(text: str | bytes) -> Any:
    """Parses untrusted JSON; bytes are UTF-8, UTF-16 or UTF-32, with or without a byte order mark.

    Lone surrogates are replaced; NaN, infinities and numbers beyond 2**53 become None. Raises ValueError.
    """
    words = text.decode(json.detect_encoding(text)) if isinstance(text, bytes) else text
    try:
        found = json.loads(
            words.removeprefix("\ufeff"), parse_int=_whole, parse_float=_real, parse_constant=_none
        )
        return _mended(found) if _HALF.search(words) else found
    except RecursionError:
        raise ValueError("this JSON is nested too deeply") from None


def number(value: Any) -> Any:
    """Returns `value`; None for NaN, infinities and numbers beyond 2**53."""
    absurd = isinstance(value, (int, float)) and not abs(value) <= _EXACT
    return None if absurd else value


def _whole(digits: str) -> int | None:
    return number(int(digits)) if len(digits) <= _MAX_DIGITS else None


def _real(digits: str) -> float | None:
    return number(float(digits))


def _none(_: str) -> None:
    """Returns None for NaN and the infinities, which JSON does not have."""


def _mended(value: Any) -> Any:
    """Returns `value` with a question mark for every lone surrogate."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode("utf-8")
        case list():
            return [_mended(each) for each in value]
        case dict():
            return {_mended(name): _mended(each) for name, each in value.items()}
    return value


def whole(value: Any) -> int:
    """Returns a positive int; 0 for any other value."""
    return value if type(value) is int and value > 0 else 0


def fits(value: Any, hint: Any) -> bool:
    """Returns whether a JSON value matches a type annotation."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Literal:
        return value in inner
    if origin in (Union, UnionType):
        return any(fits(value, each) for each in inner)
    if origin is list:
        return isinstance(value, list) and all(fits(each, inner[0]) for each in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(each, inner[1]) for each in value.values())
    if hint is float:
        return type(value) in (int, float)
    return type(value) is hint
