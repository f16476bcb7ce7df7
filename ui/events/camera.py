"""Server functions of the camera map: turn a drawing into moves, a file into a path, a path into a file."""

from __future__ import annotations

import math
from typing import Any

from backends import registry
from backends.base import BackendSpec
from backends.camera import (
    MAX_TEXT,
    follow_drawing,
    format_moves,
    format_path,
    parse_path,
    trace_trajectory,
)
from ui import text

MAX_POINTS = 5_000  # of a drawing


def follow(query: dict[str, Any]) -> dict[str, Any]:
    """Turns a drawing into moves: {"points", "model"}, a line in metres right of and ahead of the camera.
    Returns {"moves"} or {"error"}."""
    try:
        spec, points = _spec_of(query), query.get("points")
        if not isinstance(points, list) or not 2 <= len(points) <= MAX_POINTS:
            raise ValueError(text.NO_LINE)
        line = _points(points)
        moves = follow_drawing(line, spec.metres_per_latent, spec.degrees_per_latent)
    except (LookupError, ValueError) as error:
        return {"error": str(error)}
    return {"moves": [{"keys": list(move.keys), "n": move.latents} for move in moves]}


def read(query: dict[str, Any]) -> dict[str, Any]:
    """Parses a file, {"text", "model"}: moves or a trajectory as JSON, or a pose string. Returns {"path"} or
    {"error"}."""
    try:
        spec, words = _spec_of(query), str(query.get("text", ""))
        if len(words) > MAX_TEXT:
            raise ValueError(text.FILE_TOO_LONG)
        return {"path": format_path(parse_path(words, spec.metres_per_latent, spec.degrees_per_latent))}
    except (LookupError, ValueError) as error:
        return {"error": str(error)}


def write(query: dict[str, Any]) -> dict[str, Any]:
    """Writes a path as a file, {"path", "kind", "model"}: its moves, or the camera at every latent frame.
    Returns {"text"} or {"error"}."""
    try:
        spec = _spec_of(query)
        moves = parse_path(str(query.get("path", "")), spec.metres_per_latent, spec.degrees_per_latent)
    except (LookupError, ValueError) as error:
        return {"error": str(error)}
    if query.get("kind") == "moves":
        return {"text": format_moves(moves)}
    return {"text": trace_trajectory(moves, spec.metres_per_latent, spec.degrees_per_latent)}


def _points(points: list[Any]) -> list[tuple[float, float]]:
    """Returns the points of a drawing. Raises ValueError for anything but finite pairs of numbers."""
    try:
        line = [(float(x), float(y)) for x, y in points]
    except (OverflowError, TypeError, ValueError):
        raise ValueError(text.NO_LINE) from None
    if not all(math.isfinite(value) for point in line for value in point):
        raise ValueError(text.NO_LINE)
    return line


def _spec_of(query: object) -> BackendSpec:
    """Returns the model that a request of the map names. Raises LookupError, also for malformed requests."""
    if not isinstance(query, dict):
        raise LookupError(text.NO_MAP)
    return registry.find(str(query.get("model")))


ANSWERS = (follow, read, write)  # called by these names in the scripts
