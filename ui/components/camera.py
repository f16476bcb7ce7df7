"""The camera path: a map to draw it on, a timeline, and where it leads. The text field is what counts."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from backends import registry
from backends.base import BackendSpec
from backends.camera import (
    KEYS,
    MAX_MOVE_TEXT,
    MAX_PATH_LATENTS,
    MAX_TEXT,
    CameraMove,
    follow_drawing,
    format_moves,
    format_path,
    parse_path,
    trace_trajectory,
)
from backends.plain_text import PLAIN
from ui import text

_HERE = Path(__file__).parent
# What path.js takes from Python: the keys, the limits, and the signs that stand for plain characters.
_CONSTANTS = {
    "KEYS": KEYS,
    "MOST": MAX_PATH_LATENTS,
    "MOST_TEXT": MAX_TEXT,
    "MOST_MOVE_TEXT": MAX_MOVE_TEXT,
    "PLAIN": PLAIN,
}
PATH_SCRIPT = "\n".join(
    [
        *(f"const {name} = {json.dumps(value)};" for name, value in _CONSTANTS.items()),
        (_HERE / "path.js").read_text(encoding="utf-8"),
    ]
)
SCRIPT = "\n".join(
    [PATH_SCRIPT, *((_HERE / name).read_text(encoding="utf-8") for name in ("map.js", "timeline.js"))]
)
MAX_POINTS = 5_000  # of a drawing


class PadKey(NamedTuple):
    """A button of the pad: what it writes, what it shows, what a screen reader says."""

    key: str
    face: str
    name: str


PAD = (
    PadKey("left", "↶", "Turn left"),
    PadKey("w", "W", "Walk forward"),
    PadKey("right", "↷", "Turn right"),
    PadKey("a", "A", "Step left"),
    PadKey("s", "S", "Walk back"),
    PadKey("d", "D", "Step right"),
    PadKey("up", "⤒", "Look up"),
    PadKey("still", "•", "Stay still"),
    PadKey("down", "⤓", "Look down"),
)

PRESETS = (
    ("Look around and back", "right-24, left-24"),
    ("Walk ahead", "w-48"),
    ("Orbit", "a+right-144"),
    ("There and back", "w-24, s-24"),
    ("Walk a curve", "w-12, w+right-36, w-12"),
)

FIRST = PRESETS[0][1]  # what the page opens with: a look away, and back


class Pose(NamedTuple):
    """Where the camera is on the map; heading 0 looks up the page, and grows clockwise."""

    x: float
    y: float
    heading: float


def trace(moves: Sequence[CameraMove], spec: BackendSpec) -> list[Pose]:
    """The camera after each latent frame, the start included; metres, and radians."""
    walk, turned = spec.metres_per_latent, math.radians(spec.degrees_per_latent)
    pose = Pose(0.0, 0.0, 0.0)
    poses = [pose]
    for move in moves:
        keys = move.keys
        ahead = walk * (("w" in keys) - ("s" in keys))
        aside = walk * (("d" in keys) - ("a" in keys))
        turn = turned * (("right" in keys) - ("left" in keys))
        for _ in range(move.latents):
            heading = pose.heading + turn
            sin, cos = math.sin(heading), math.cos(heading)
            pose = Pose(pose.x + ahead * sin + aside * cos, pose.y + ahead * cos - aside * sin, heading)
            poses.append(pose)
    return poses


def component(spec: BackendSpec) -> gr.HTML:
    return gr.HTML(
        scale_of(spec),
        html_template=(_HERE / "camera.html").read_text(encoding="utf-8"),
        js_on_load=SCRIPT,
        server_functions=[follow, read, write],
        elem_id="camera",
        apply_default_css=False,
        pad=[key._asdict() for key in PAD],
        presets=[{"name": name, "path": path} for name, path in PRESETS],
        words=text.CAMERA,
    )


def scale_of(spec: BackendSpec) -> dict[str, Any]:
    """What a key does in a latent frame of this model."""
    return {
        "model": spec.id,
        "metres": spec.metres_per_latent,
        "degrees": spec.degrees_per_latent,
        "latents_per_second": spec.fps * spec.latents_per_block / spec.frames_per_block,
        "faces": {key.key: key.face for key in PAD},
    }


def follow(asked: dict[str, Any]) -> dict[str, Any]:
    """From the map: {"points", "model"}, a line in metres right of and ahead of the camera, as moves."""
    try:
        spec, points = _asked_of(asked), asked.get("points")
        if not isinstance(points, list) or not 2 <= len(points) <= MAX_POINTS:
            raise ValueError(text.NO_LINE)
        line = _points(points)
        moves = follow_drawing(line, spec.metres_per_latent, spec.degrees_per_latent)
    except (LookupError, ValueError) as error:
        return {"error": str(error)}
    return {"moves": [{"keys": list(move.keys), "n": move.latents} for move in moves]}


def read(asked: dict[str, Any]) -> dict[str, Any]:
    """A file, {"text", "model"}: moves or a trajectory as JSON, or a pose string; as a path."""
    try:
        spec, words = _asked_of(asked), str(asked.get("text", ""))
        if len(words) > MAX_TEXT:
            raise ValueError(text.FILE_TOO_LONG)
        return {"path": format_path(parse_path(words, spec.metres_per_latent, spec.degrees_per_latent))}
    except (LookupError, ValueError) as error:
        return {"error": str(error)}


def write(asked: dict[str, Any]) -> dict[str, Any]:
    """A file of a path, {"path", "kind", "model"}: its moves, or the camera at every latent frame."""
    try:
        spec = _asked_of(asked)
        moves = parse_path(str(asked.get("path", "")), spec.metres_per_latent, spec.degrees_per_latent)
    except (LookupError, ValueError) as error:
        return {"error": str(error)}
    if asked.get("kind") == "moves":
        return {"text": format_moves(moves)}
    return {"text": trace_trajectory(moves, spec.metres_per_latent, spec.degrees_per_latent)}


def _points(points: list[Any]) -> list[tuple[float, float]]:
    """Returns the points of a drawing. Raises ValueError for what is no finite pair of numbers."""
    try:
        line = [(float(x), float(y)) for x, y in points]
    except (OverflowError, TypeError, ValueError):
        raise ValueError(text.NO_LINE) from None
    if not all(math.isfinite(value) for point in line for value in point):
        raise ValueError(text.NO_LINE)
    return line


def _asked_of(asked: object) -> BackendSpec:
    """The model that a map speaks of. Raises LookupError, also for what no map says."""
    if not isinstance(asked, dict):
        raise LookupError(text.NO_MAP)
    return registry.find(str(asked.get("model")))
