"""The camera path as a text, a pad of buttons that write it, and a small map of it seen from above."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from backends.base import BackendSpec
from backends.camera import CameraMove

SCRIPT = (Path(__file__).parent / "pose.js").read_text(encoding="utf-8")


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

# The name stays in the button for screen readers; the face is drawn over it.
PAD_STYLE = "".join(f'#pad-{key.key}::before {{ content: "{key.face}"; }}\n' for key in PAD)

PRESETS = (
    ("Look around", "right-24, left-24"),
    ("Walk ahead", "w-48"),
    ("Orbit", "a+right-144"),
    ("There and back", "w-24, s-24"),
)

FIRST = PRESETS[0][1]  # what the page opens with: a look away, and back
_SIDE = 120.0
_MARGIN = 16.0
_TICKS = 14  # view directions drawn along the path


def append_call(key: str) -> str:
    """Code (path, duration) -> path with `key` added; in the browser, so that quick clicks are never lost."""
    return f"(path, n) => {{ {SCRIPT}\nreturn append(path, {key!r}, n); }}"


def undo_call() -> str:
    return f"(path) => {{ {SCRIPT}\nreturn undo(path); }}"


def set_call(path: str) -> str:
    return f"() => {path!r}"


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


def drawing(moves: Sequence[CameraMove], spec: BackendSpec) -> str:
    """SVG of the path from above: a line for the way, rays for where the camera looks, a cone at the end."""
    poses = trace(moves, spec)
    xs, ys = [pose.x for pose in poses], [pose.y for pose in poses]
    reach = max(max(xs) - min(xs), max(ys) - min(ys), 12 * spec.metres_per_latent)
    scale = (_SIDE - 2 * _MARGIN) / reach
    middle_x, middle_y = (max(xs) + min(xs)) / 2, (max(ys) + min(ys)) / 2

    def at(pose: Pose) -> tuple[float, float]:
        return _SIDE / 2 + (pose.x - middle_x) * scale, _SIDE / 2 - (pose.y - middle_y) * scale

    every = max(1, len(poses) // _TICKS)
    rays = "".join(_ray(*at(pose), pose.heading, 9) for pose in poses[:-1:every])
    # Thousands of points would be re-sent at every key stroke.
    shown = poses[:: max(1, len(poses) // 200)] + poses[-1:]
    way = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(at, shown))
    x, y = at(poses[0])
    start = f'<circle class="start" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>'
    return (
        f'<svg class="map" viewBox="0 0 {_SIDE:.0f} {_SIDE:.0f}" role="img"'
        f' aria-label="{_in_words(moves, poses)}">'
        f'{rays}<polyline class="way" points="{way}"/>{start}{_cone(*at(poses[-1]), poses[-1].heading)}</svg>'
    )


def _ray(x: float, y: float, heading: float, length: float) -> str:
    ahead, across = math.sin(heading) * length, -math.cos(heading) * length
    return f'<path class="ray" d="M{x:.1f} {y:.1f}l{ahead:.1f} {across:.1f}"/>'


def _cone(x: float, y: float, heading: float, length: float = 13, half: float = math.radians(35)) -> str:
    left = (math.sin(heading - half) * length, -math.cos(heading - half) * length)
    right = (math.sin(heading + half) * length, -math.cos(heading + half) * length)
    return (
        f'<path class="cone" d="M{x:.1f} {y:.1f}l{left[0]:.1f} {left[1]:.1f}'
        f'L{x + right[0]:.1f} {y + right[1]:.1f}z"/>'
    )


def _in_words(moves: Sequence[CameraMove], poses: Sequence[Pose]) -> str:
    if not moves:
        return "Map of the camera path: it stands still"
    return (
        f"Map of the camera path seen from above: {len(poses) - 1} latent frames, "
        f"ending {math.degrees(poses[-1].heading):.0f} degrees from where it looked at first"
    )
