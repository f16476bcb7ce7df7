"""Camera paths as typed moves: from text, from a recorded trajectory, from a line drawn on a map.

Text is `w-8, right-4`, HY-WorldPlay's pose grammar. A segment is `keys-duration`: keys are w s a d (walk) and
left right up down (turn), joined by `+` when held together; the duration counts latent frames, 1 where it is
left out. `still` holds no key. Text that begins with `{` is a trajectory, JSON as HY-WorldPlay reads it; text
that begins with `[` is moves as JSON: `[{"keys": ["w", "right"], "n": 4}]`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, product
from typing import Any, NamedTuple

KEYS = ("w", "s", "a", "d", "left", "right", "up", "down")
MAX_PATH_LATENTS = 4096
MAX_TEXT = 4_000_000  # characters
_MAX_DIGITS = 9  # of a number that counts latents: Python refuses to read thousands of them
METRES_PER_LATENT, DEGREES_PER_LATENT = 0.08, 3.0  # what a held key does, unless a generator says otherwise
PICTURE = (1920, 1080)  # pixels K counts in, and the focal length in widths and heights: HY-WorldPlay's own
FOCAL = (969.697 / 1920, 969.697 / 1080)
_STRAYED = 4  # latents' worth of motion: a trajectory further than this from what keys can do is refused
_SEGMENT = re.compile(r"\s*([A-Za-z+ ]*?)\s*(?:-\s*(\d+))?\s*\Z")


@dataclass(frozen=True, slots=True)
class CameraMove:
    """Keys held together for `latents` latent frames; no key stays still."""

    keys: tuple[str, ...] = ()
    latents: int = 1

    def __post_init__(self) -> None:
        for key in self.keys:
            if key not in KEYS:
                raise ValueError(f"unknown camera key {key!r}: use one of {', '.join(KEYS)}")
        if self.latents < 1:
            raise ValueError(f"a move lasts at least 1 latent frame, not {self.latents}")

    def __str__(self) -> str:
        return f"{'+'.join(self.keys) or 'still'}-{self.latents}"


STILL = CameraMove()


class PathError(ValueError):
    """A malformed path. `segment` counts from 1, `column` is the character it starts at, from 1."""

    def __init__(self, segment: int, column: int, problem: str) -> None:
        super().__init__(f"Camera path, move {segment} (character {column}): {problem}")
        self.segment = segment
        self.column = column


def parse_path(
    text: str, metres: float = METRES_PER_LATENT, degrees: float = DEGREES_PER_LATENT
) -> tuple[CameraMove, ...]:
    """Moves of `text`; an empty text is an empty path. Raises PathError with the position of the mistake.

    `metres` and `degrees` are what a key does in a latent frame, for a trajectory to be followed.
    """
    if not text.strip():
        return ()
    if len(text) > MAX_TEXT:
        raise PathError(1, 1, f"this is {len(text):,} characters long; the limit is {MAX_TEXT:,}")
    if text.lstrip().startswith("{"):
        return follow_trajectory(parse_trajectory(text), metres, degrees)
    if text.lstrip().startswith("["):
        return parse_moves(text)
    moves: list[CameraMove] = []
    column, total = 1, 0
    for index, part in enumerate(text.split(","), start=1):
        start = column + len(part) - len(part.lstrip())
        column += len(part) + 1
        shown = part.strip()[:24]
        match = _SEGMENT.match(part)
        if not part.strip():
            raise PathError(index, start, "there is nothing between the commas; write a move such as w-4")
        if match is None:
            raise PathError(index, start, f"cannot read {shown!r}; write key-duration, such as w-4 or left-2")
        keys = tuple(word.strip().lower() for word in match[1].split("+"))
        if keys == ("still",):
            keys = ()
        for key in keys:
            if key not in KEYS:
                raise PathError(
                    index, start, f"{key or shown!r} is not a key; use {', '.join(KEYS)} or still"
                )
        latents = int(match[2][:_MAX_DIGITS]) if match[2] else 1
        if latents < 1:
            raise PathError(index, start, "the duration must be at least 1")
        total += latents
        if total > MAX_PATH_LATENTS:
            raise PathError(
                index, start, f"the path is {total:,} latents long here; the limit is {MAX_PATH_LATENTS:,}"
            )
        moves.append(CameraMove(keys, latents))
    return tuple(moves)


def format_path(moves: Iterable[CameraMove]) -> str:
    """The text `parse_path` reads back as `moves`."""
    return ", ".join(str(move) for move in moves)


def parse_moves(text: str) -> tuple[CameraMove, ...]:
    """Moves of `[{"keys": ["w", "right"], "n": 4}, ...]`. Raises PathError naming the move."""
    entries = _json(text)
    if not isinstance(entries, list):
        raise PathError(1, 1, 'moves are [{"keys": ["w"], "n": 4}, ...]')
    moves: list[CameraMove] = []
    for index, entry in enumerate(entries, start=1):
        keys = entry.get("keys") if isinstance(entry, dict) else None
        latents = entry.get("n") if isinstance(entry, dict) else None
        if not isinstance(keys, list) or type(latents) is not int:
            raise PathError(index, 1, 'a move is {"keys": ["w", "right"], "n": 4}')
        try:
            moves.append(CameraMove(tuple(map(str, keys)), latents))
        except ValueError as error:
            raise PathError(index, 1, str(error)) from error
    total = sum(move.latents for move in moves)
    if total > MAX_PATH_LATENTS:
        raise PathError(
            len(moves), 1, f"the path is {total:,} latents long; the limit is {MAX_PATH_LATENTS:,}"
        )
    return tuple(moves)


def format_moves(moves: Iterable[CameraMove]) -> str:
    """The JSON `parse_moves` reads back as `moves`."""
    return json.dumps([{"keys": list(move.keys), "n": move.latents} for move in moves])


def each_latent(moves: Iterable[CameraMove]) -> Iterator[tuple[str, ...]]:
    """The keys held during each latent frame of the path."""
    for move in moves:
        for _ in range(move.latents):
            yield move.keys


class TrajectoryFrame(NamedTuple):
    """A camera at one latent frame."""

    c2w: tuple[tuple[float, ...], ...]  # 4 x 4; x right, y down, z forward
    focal: tuple[float, float]  # in widths and heights of the picture
    segment: int  # where the text has it, as in PathError
    column: int


def parse_trajectory(text: str) -> tuple[TrajectoryFrame, ...]:
    """Cameras of `{"0": {"extrinsic": 4 x 4 camera-to-world, "K": 3 x 3 in pixels}, "1": ...}`, by number.

    Raises PathError naming the entry and what is wrong with it.
    """
    entries = _json(text)
    if not isinstance(entries, dict) or not entries:
        raise PathError(1, 1, 'a trajectory is {"0": {"extrinsic": ..., "K": ...}, "1": ...}')
    if len(entries) > MAX_PATH_LATENTS:
        raise PathError(
            MAX_PATH_LATENTS + 1, 1, f"{len(entries):,} cameras; the limit is {MAX_PATH_LATENTS:,}"
        )
    frames: list[tuple[int, TrajectoryFrame]] = []
    for index, (name, entry) in enumerate(entries.items(), start=1):
        column = text.find(json.dumps(name)) + 1
        if not name.isdecimal() or len(name) > _MAX_DIGITS:
            raise PathError(index, column, f"{name[:24]!r} is not the number of a latent frame")
        c2w = _matrix(entry, "extrinsic", 4, index, column)
        pixels = _matrix(entry, "K", 3, index, column)
        if pixels[0][2] <= 0 or pixels[1][2] <= 0 or pixels[0][0] <= 0 or pixels[1][1] <= 0:
            raise PathError(index, column, "focal lengths and centre of K must be positive pixels")
        if not _is_rigid(c2w):
            raise PathError(index, column, "extrinsic is not a rotation and a shift over 0 0 0 1")
        # The centre is taken for the middle of the picture, as the model does.
        focal = (pixels[0][0] / (2 * pixels[0][2]), pixels[1][1] / (2 * pixels[1][2]))
        frames.append((int(name), TrajectoryFrame(c2w, focal, index, column)))
    numbers = sorted(number for number, _ in frames)
    if numbers != list(range(len(frames))):
        raise PathError(1, 1, f"the cameras are not numbered 0 to {len(frames) - 1}")
    return tuple(frame for _, frame in sorted(frames, key=lambda numbered: numbered[0]))


def trace_trajectory(
    moves: Iterable[CameraMove],
    metres: float = METRES_PER_LATENT,
    degrees: float = DEGREES_PER_LATENT,
    focal: tuple[float, float] = FOCAL,
) -> str:
    """The JSON of the cameras along `moves`, the start included: `parse_trajectory` reads it."""
    rotation: _Matrix = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    place: _Triple = (0.0, 0.0, 0.0)
    width, height = PICTURE
    pixels = [[focal[0] * width, 0.0, width / 2], [0.0, focal[1] * height, height / 2], [0.0, 0.0, 1.0]]
    cameras = {}
    for number, keys in enumerate(((), *each_latent(moves))):
        rotation = _times(rotation, _turn(keys, degrees))
        place = _shift(place, rotation, keys, metres)
        rows = [[*row, value] for row, value in zip(rotation, place, strict=True)]
        cameras[str(number)] = {"extrinsic": [*rows, [0.0, 0.0, 0.0, 1.0]], "K": pixels}
    return json.dumps(cameras)


def follow_trajectory(
    frames: Sequence[TrajectoryFrame], metres: float = METRES_PER_LATENT, degrees: float = DEGREES_PER_LATENT
) -> tuple[CameraMove, ...]:
    """The keys that stay closest to a trajectory; exactly on it where it was made of keys.

    `metres` and `degrees` are what a key does in a latent frame. Raises PathError where keys cannot keep up.
    """
    keys: list[tuple[str, ...]] = []
    rotation, place = _rotation(frames[0].c2w), _place(frames[0].c2w)
    for frame in frames[1:]:
        turn, rotation = min(
            (
                (held, _times(rotation, _turn(held, degrees)))
                for held in _pairs("left", "right", "up", "down")
            ),
            key=lambda after: _angle(after[1], _rotation(frame.c2w)) + 1e-6 * len(after[0]),
        )
        walk, place = min(
            ((held, _shift(place, rotation, held, metres)) for held in _pairs("w", "s", "a", "d")),
            key=lambda after: math.dist(after[1], _place(frame.c2w)) + 1e-9 * len(after[0]),
        )
        keys.append(walk + turn)
        off_metres = math.dist(place, _place(frame.c2w))
        off_degrees = _angle(rotation, _rotation(frame.c2w))
        if off_metres > _STRAYED * metres or off_degrees > _STRAYED * degrees:
            raise PathError(
                frame.segment,
                frame.column,
                f"this camera is {off_metres:.2f} m and {off_degrees:.0f} degrees from where keys can be: "
                f"they walk {metres:g} m and turn {degrees:g} degrees a latent frame, and never roll or fly",
            )
    return _moves(keys)


def follow_drawing(
    points: Sequence[tuple[float, float]],
    metres: float = METRES_PER_LATENT,
    degrees: float = DEGREES_PER_LATENT,
) -> tuple[CameraMove, ...]:
    """The keys that walk along a line drawn on a map, looking where they go.

    `points` are (right, ahead) in metres; the camera stands on the first and looks ahead. It comes within a
    step of every point. Raises ValueError when the way is longer than a path may be.
    """
    keys: list[tuple[str, ...]] = []
    heading, (x, y) = 0.0, points[0]
    for right, ahead in points[1:]:
        while math.hypot(right - x, ahead - y) > metres:
            off = math.degrees(math.atan2(right - x, ahead - y) - heading)
            off = (off + 180) % 360 - 180
            turn = ("right",) if off > degrees / 2 else ("left",) if off < -degrees / 2 else ()
            heading += math.radians(degrees) * (("right" in turn) - ("left" in turn))
            # Turning on the spot first where the way bends sharply: no circle round a point that is close.
            walk = ("w",) if abs(off) < 30 else ()
            x, y = x + len(walk) * metres * math.sin(heading), y + len(walk) * metres * math.cos(heading)
            keys.append(walk + turn)
            if len(keys) > MAX_PATH_LATENTS:
                raise ValueError(
                    f"the line drawn takes more than {MAX_PATH_LATENTS:,} latents to walk: draw a shorter one"
                )
    return _moves(keys)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise PathError(1, error.pos + 1, f"this is not JSON: {error.msg}") from error
    except ValueError:
        raise PathError(1, 1, "a number in this JSON has too many digits") from None
    except RecursionError:
        raise PathError(1, 1, "this JSON is nested too deeply") from None


_Matrix = tuple[tuple[float, ...], ...]
_Triple = tuple[float, float, float]


def _moves(keys: Iterable[tuple[str, ...]]) -> tuple[CameraMove, ...]:
    return tuple(CameraMove(held, len(list(run))) for held, run in groupby(keys))


def _pairs(a: str, b: str, c: str, d: str) -> list[tuple[str, ...]]:
    """a, b or neither, with c, d or neither."""
    return [tuple(filter(None, held)) for held in product(("", a, b), ("", c, d))]


def _matrix(entry: object, name: str, size: int, index: int, column: int) -> _Matrix:
    rows = entry.get(name) if isinstance(entry, dict) else None
    try:
        matrix = tuple(tuple(float(value) for value in row) for row in rows)  # type: ignore[union-attr]
    except (TypeError, ValueError, OverflowError):
        matrix = ()
    square = len(matrix) == size and all(len(row) == size for row in matrix)
    if not square or not all(math.isfinite(value) for row in matrix for value in row):
        raise PathError(index, column, f"{name} is not {size} rows of {size} numbers")
    return matrix


def _is_rigid(c2w: _Matrix) -> bool:
    axes = list(zip(*_rotation(c2w), strict=True))
    dots = [sum(p * q for p, q in zip(a, b, strict=True)) for a in axes for b in axes]
    close = all(math.isclose(dot, i % 4 == 0, abs_tol=1e-2) for i, dot in enumerate(dots))
    return close and math.dist(c2w[3], (0, 0, 0, 1)) < 1e-6


def _rotation(c2w: _Matrix) -> _Matrix:
    return tuple(row[:3] for row in c2w[:3])


def _place(c2w: _Matrix) -> _Triple:
    return c2w[0][3], c2w[1][3], c2w[2][3]


def _times(a: _Matrix, b: _Matrix) -> _Matrix:
    columns = list(zip(*b, strict=True))
    return tuple(
        tuple(sum(p * q for p, q in zip(row, column, strict=True)) for column in columns) for row in a
    )


def _turn(keys: tuple[str, ...], degrees: float) -> _Matrix:
    yaw = math.radians(degrees) * (("right" in keys) - ("left" in keys))
    pitch = math.radians(degrees) * (("up" in keys) - ("down" in keys))
    about_y = ((math.cos(yaw), 0.0, math.sin(yaw)), (0.0, 1.0, 0.0), (-math.sin(yaw), 0.0, math.cos(yaw)))
    about_x = (
        (1.0, 0.0, 0.0),
        (0.0, math.cos(pitch), -math.sin(pitch)),
        (0.0, math.sin(pitch), math.cos(pitch)),
    )
    return _times(about_y, about_x)


def _shift(place: _Triple, rotation: _Matrix, keys: tuple[str, ...], metres: float) -> _Triple:
    aside = metres * (("d" in keys) - ("a" in keys))
    ahead = metres * (("w" in keys) - ("s" in keys))
    x, y, z = (p + row[0] * aside + row[2] * ahead for p, row in zip(place, rotation, strict=True))
    return x, y, z


def _angle(a: _Matrix, b: _Matrix) -> float:
    """Degrees between two rotations, from the length of their difference: exact for small ones too."""
    difference = math.dist([value for row in a for value in row], [value for row in b for value in row])
    return math.degrees(2 * math.asin(min(1.0, difference / math.sqrt(8))))
