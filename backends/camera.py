"""Camera paths as typed moves: from text, from a recorded trajectory, from a line drawn on a map.

Text is `w-8, right-4`, HY-WorldPlay's pose grammar. A move is `keys-duration`: keys are w s a d (walk) and
left right up down (turn), joined by `+` when pressed together; the duration counts latent frames, 1 if
omitted. `still` presses no key. Moves are separated by commas, semicolons or line breaks. Text that begins
with `{` is a trajectory, JSON as HY-WorldPlay reads it; text that begins with `[` is moves as JSON:
`[{"keys": ["w", "right"], "n": 4}]`. Pasted text is accepted as it is: with the signs in `plain_text.PLAIN`,
in quotes or a code fence, in upper case, `8.0` for 8. The browser parses moves alike: see
ui/components/camera_path.js.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain, combinations_with_replacement, groupby, product
from operator import mul, sub
from typing import Any, NamedTuple, TypeGuard

from backends.plain_text import excerpt, plain, read_number

KEYS = ("w", "s", "a", "d", "left", "right", "up", "down")
MAX_PATH_LATENTS = 4096
MAX_TEXT = 4_000_000  # characters
MAX_MOVE_TEXT = 64  # characters in one move
METRES_PER_LATENT, DEGREES_PER_LATENT = 0.08, 3.0  # of a pressed key, unless a generator has others
PICTURE = (1920, 1080)  # HY-WorldPlay's, in pixels of K; the focal length is in widths and heights
FOCAL = (969.697 / 1920, 969.697 / 1080)
_MAX_DIGITS = 9  # of the number of a camera
_MOST_LATENTS = 10**_MAX_DIGITS  # in a move: enough for a message that says it is too long
_STRAYED = 4  # latents' worth of motion: a trajectory further than this from what keys can follow is refused
_EDGES = " \n'\"`"  # ignored around a text and around each of its moves
_FENCE = re.compile(r"[ \n'\"]*```[A-Za-z]* *\n")  # the first line of a code fence
_SEPARATOR = re.compile("[,;\n]")
_TRAILING_COMMA = re.compile(r",(?=[ \n]*[\]}])")


@dataclass(frozen=True, slots=True)
class CameraMove:
    """Keys pressed together for `latents` latent frames; without keys the camera stays still."""

    keys: tuple[str, ...] = ()
    latents: int = 1

    def __post_init__(self) -> None:
        if len(self.keys) > len(KEYS):
            raise ValueError(f"a move holds at most {len(KEYS)} keys, not {len(self.keys):,}")
        for key in self.keys:
            if key not in KEYS:
                raise ValueError(f"unknown camera key {excerpt(key)}: use one of {', '.join(KEYS)}")
        if len(set(self.keys)) < len(self.keys):
            raise ValueError(f"a move holds a key once, not {'+'.join(self.keys)}")
        if self.latents < 1:
            raise ValueError(f"a move lasts at least 1 latent frame, not {self.latents}")

    def __str__(self) -> str:
        return f"{'+'.join(self.keys) or 'still'}-{self.latents}"


class PathError(ValueError):
    """A malformed path. `segment` counts from 1, `column` is the character it starts at, from 1."""

    def __init__(self, segment: int, column: int, problem: str) -> None:
        super().__init__(f"Camera path, move {segment} (character {column}): {problem}")
        self.segment = segment
        self.column = column


@lru_cache(maxsize=8)  # a form parses its path several times
def parse_path(
    text: str, metres: float = METRES_PER_LATENT, degrees: float = DEGREES_PER_LATENT
) -> tuple[CameraMove, ...]:
    """Returns the moves of `text`; an empty text is an empty path.

    `metres` and `degrees` are the effect of a key in one latent frame, used to follow a trajectory. Raises
    PathError with the position of the mistake, in characters of the plain text.
    """
    if len(text) > MAX_TEXT:
        raise PathError(1, 1, f"this is {len(text):,} characters long; the limit is {MAX_TEXT:,}")
    words = plain(text)
    body = _unwrapped(words)
    if body.startswith("{"):
        return follow_trajectory(parse_trajectory(body), metres, degrees)
    if body.startswith("["):
        return parse_moves(body)
    moves: list[CameraMove] = []
    start, total = words.find(body), 0
    for part in _SEPARATOR.split(body):
        typed = part.strip(_EDGES)
        if typed:
            index, column = len(moves) + 1, start + part.find(typed) + 1
            move = _parse_move(typed, index, column)
            total += move.latents
            if total > MAX_PATH_LATENTS:
                raise PathError(
                    index,
                    column,
                    f"the path is {total:,} latents long here; the limit is {MAX_PATH_LATENTS:,}",
                )
            moves.append(move)
        start += len(part) + 1
    return tuple(moves)


def is_json(text: str) -> bool:
    """Returns whether `parse_path` reads `text` as JSON."""
    return _unwrapped(plain(text))[:1] in ("{", "[")


def _unwrapped(words: str) -> str:
    """Returns the content of a plain text inside quotes or a code fence, without a final full stop."""
    fence = _FENCE.match(words)
    return (words[fence.end() :] if fence else words).strip(_EDGES).rstrip(f".{_EDGES}")


def _parse_move(typed: str, index: int, column: int) -> CameraMove:
    """Returns the move `keys-duration`. Raises PathError, which gets `index` and `column`."""
    if len(typed) > MAX_MOVE_TEXT:
        raise PathError(
            index,
            column,
            f"{excerpt(typed)} is {len(typed):,} characters long; write key-duration, such as w-4, with "
            "commas between moves",
        )
    held, dash, duration = typed.partition("-")
    keys = tuple(word.strip(" ").lower() for word in held.split("+"))
    if keys == ("still",):
        keys = ()
    if len(keys) > len(KEYS):
        raise PathError(index, column, f"{excerpt(typed)} holds {len(keys)} keys; there are {len(KEYS)}")
    for key in keys:
        if key not in KEYS:
            raise PathError(
                index, column, f"{excerpt(key or typed)} is not a key; use {', '.join(KEYS)} or still"
            )
    latents = read_number(duration) if duration.strip(" ")[:1].isdecimal() else None
    if not dash:
        latents = 1
    if latents is None:
        raise PathError(
            index,
            column,
            f"cannot read {excerpt(typed)}; write key-duration, such as w-4, with commas between moves",
        )
    if not isinstance(latents, int):
        raise PathError(
            index, column, f"{excerpt(typed)} lasts {latents:g} latents; a move lasts a whole number of them"
        )
    if latents < 1:
        raise PathError(index, column, "the duration must be at least 1")
    return CameraMove(tuple(dict.fromkeys(keys)), min(latents, _MOST_LATENTS))


def format_path(moves: Iterable[CameraMove]) -> str:
    """Returns the text that `parse_path` parses to `moves`."""
    return ", ".join(str(move) for move in moves)


def parse_moves(text: str) -> tuple[CameraMove, ...]:
    """Returns the moves of `[{"keys": ["w", "right"], "n": 4}, ...]`. Raises PathError naming the move."""
    entries = _parse_json(text)
    if not isinstance(entries, list):
        raise PathError(1, 1, 'moves are [{"keys": ["w"], "n": 4}, ...]')
    moves: list[CameraMove] = []
    total = 0
    for index, entry in enumerate(entries, start=1):
        keys = entry.get("keys") if isinstance(entry, dict) else None
        latents = entry.get("n") if isinstance(entry, dict) else None
        if not isinstance(keys, list) or not _is_whole(latents):
            raise PathError(index, 1, 'a move is {"keys": ["w", "right"], "n": 4}')
        if len(keys) > len(KEYS):
            raise PathError(index, 1, f"a move holds at most {len(KEYS)} keys, not {len(keys):,}")
        names = [str(key).lower() for key in keys]
        if latents < 1:
            raise PathError(index, 1, "the duration must be at least 1")
        try:
            held = () if names == ["still"] else tuple(dict.fromkeys(names))
            move = CameraMove(held, int(min(latents, _MOST_LATENTS)))
        except ValueError as error:
            raise PathError(index, 1, str(error)) from error
        total += move.latents
        if total > MAX_PATH_LATENTS:
            raise PathError(
                index, 1, f"the path is {total:,} latents long here; the limit is {MAX_PATH_LATENTS:,}"
            )
        moves.append(move)
    return tuple(moves)


def format_moves(moves: Iterable[CameraMove]) -> str:
    """Returns the JSON that `parse_moves` parses to `moves`."""
    return json.dumps([{"keys": list(move.keys), "n": move.latents} for move in moves])


def each_latent(moves: Iterable[CameraMove]) -> Iterator[tuple[str, ...]]:
    """Yields the keys pressed during each latent frame of the path."""
    for move in moves:
        for _ in range(move.latents):
            yield move.keys


class Pose(NamedTuple):
    """A camera position on the map. Heading 0 is up the page, and grows clockwise."""

    x: float
    y: float
    heading: float


def trace(moves: Iterable[CameraMove], metres_per_latent: float, degrees_per_latent: float) -> list[Pose]:
    """Returns the camera at the start and after each latent frame, in metres and radians."""
    turned = math.radians(degrees_per_latent)
    pose = Pose(0.0, 0.0, 0.0)
    poses = [pose]
    for keys in each_latent(moves):
        ahead = metres_per_latent * (("w" in keys) - ("s" in keys))
        aside = metres_per_latent * (("d" in keys) - ("a" in keys))
        heading = pose.heading + turned * (("right" in keys) - ("left" in keys))
        sin, cos = math.sin(heading), math.cos(heading)
        pose = Pose(pose.x + ahead * sin + aside * cos, pose.y + ahead * cos - aside * sin, heading)
        poses.append(pose)
    return poses


class TrajectoryFrame(NamedTuple):
    """A camera at one latent frame."""

    c2w: tuple[tuple[float, ...], ...]  # 4 x 4; x right, y down, z forward
    focal: tuple[float, float]  # in widths and heights of the picture
    segment: int  # its number in the text, as in PathError
    column: int


def parse_trajectory(text: str) -> tuple[TrajectoryFrame, ...]:
    """Returns the cameras of `{"0": {"extrinsic": 4x4 camera-to-world, "K": 3x3 in pixels}, ...}`, in order.

    Raises PathError naming the entry and what is wrong with it.
    """
    entries = _parse_json(text)
    if not isinstance(entries, dict) or not entries:
        raise PathError(1, 1, 'a trajectory is {"0": {"extrinsic": ..., "K": ...}, "1": ...}')
    if len(entries) > MAX_PATH_LATENTS:
        raise PathError(
            MAX_PATH_LATENTS + 1, 1, f"{len(entries):,} cameras; the limit is {MAX_PATH_LATENTS:,}"
        )
    frames: list[tuple[int, TrajectoryFrame]] = []
    column, found = 1, True
    for index, (name, entry) in enumerate(entries.items(), start=1):
        # Names are in the order of the text, so the search goes on from the last one and the text is searched
        # once. It ends at the first name that is written with escapes.
        column = text.find(json.dumps(name), column - 1) + 1 if found else 0
        column, found = max(1, column), column > 0
        if not name.isdecimal() or len(name) > _MAX_DIGITS:
            raise PathError(index, column, f"{excerpt(name)} is not the number of a latent frame")
        c2w = _matrix(entry, "extrinsic", 4, index, column)
        pixels = _matrix(entry, "K", 3, index, column)
        if pixels[0][2] <= 0 or pixels[1][2] <= 0 or pixels[0][0] <= 0 or pixels[1][1] <= 0:
            raise PathError(index, column, "focal lengths and centre of K must be positive pixels")
        if not _is_rigid(c2w):
            raise PathError(index, column, "extrinsic is not a rotation and a shift over 0 0 0 1")
        # The principal point is taken for the middle of the picture, as the model does.
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
    """Returns JSON that `parse_trajectory` reads: the cameras along `moves`, the start included."""
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
    """Returns the keys that stay closest to a trajectory; exactly on it if it was recorded from keys.

    `metres` and `degrees` are the effect of a key in one latent frame. Raises PathError if keys cannot keep
    up.
    """
    turns = [(held, _turn(held, degrees)) for held in _pairs("left", "right", "up", "down")]
    keys: list[tuple[str, ...]] = []
    rotation, place = _rotation(frames[0].c2w), _place(frames[0].c2w)
    for frame in frames[1:]:
        wanted = _rotation(frame.c2w)
        # The larger the trace of one rotation's inverse times another, the closer the two are.
        between = _times(tuple(zip(*rotation, strict=True)), wanted)
        turn, turned = max(turns, key=lambda each: _trace(each[1], between) - 1e-9 * len(each[0]))
        rotation = _times(rotation, turned)
        walk = _nearest_walk(place, _place(frame.c2w), rotation, metres)
        place = _shift(place, rotation, walk, metres)
        keys.append(walk + turn)
        off_metres = math.dist(place, _place(frame.c2w))
        off_degrees = _angle(rotation, wanted)
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
    """Returns the keys that walk along a line drawn on a map, looking in the direction of walking.

    `points` are (right, ahead) in metres; the camera stands on the first and looks ahead. It comes within a
    step of every point. Raises ValueError if the way is longer than a path may be.
    """
    keys: list[tuple[str, ...]] = []
    heading, (x, y) = 0.0, points[0]
    for right, ahead in points[1:]:
        while math.hypot(right - x, ahead - y) > metres:
            off = math.degrees(math.atan2(right - x, ahead - y) - heading)
            off = (off + 180) % 360 - 180
            turn = ("right",) if off > degrees / 2 else ("left",) if off < -degrees / 2 else ()
            heading += math.radians(degrees) * (("right" in turn) - ("left" in turn))
            # At a sharp bend it turns before it walks: otherwise it would circle around a point that is
            # close.
            walk = ("w",) if abs(off) < 30 else ()
            x, y = x + len(walk) * metres * math.sin(heading), y + len(walk) * metres * math.cos(heading)
            keys.append(walk + turn)
            if len(keys) > MAX_PATH_LATENTS:
                raise ValueError(
                    f"the line drawn takes more than {MAX_PATH_LATENTS:,} latents to walk: draw a shorter one"
                )
    return _moves(keys)


def _parse_json(text: str) -> Any:
    try:
        return json.loads(_TRAILING_COMMA.sub(" ", _unwrapped(plain(text))), parse_int=_parse_whole)
    except json.JSONDecodeError as error:
        raise PathError(1, error.pos + 1, f"this is not JSON: {error.msg}") from error
    except RecursionError:
        raise PathError(1, 1, "this JSON is nested too deeply") from None


def _parse_whole(digits: str) -> int | float:
    """Returns a whole number of JSON, as a float if it has many digits: `int` would be slow."""
    return int(digits) if len(digits) <= 2 * _MAX_DIGITS else float(digits)


def _is_whole(value: object) -> TypeGuard[int | float]:
    return type(value) is int or (type(value) is float and value.is_integer())


_Matrix = tuple[tuple[float, ...], ...]
_Triple = tuple[float, float, float]


def _moves(keys: Iterable[tuple[str, ...]]) -> tuple[CameraMove, ...]:
    return tuple(CameraMove(held, len(list(run))) for held, run in groupby(keys))


def _pairs(a: str, b: str, c: str, d: str) -> list[tuple[str, ...]]:
    """Returns the combinations of a, b or neither with c, d or neither."""
    return [tuple(filter(None, held)) for held in product(("", a, b), ("", c, d))]


def _matrix(entry: object, name: str, size: int, index: int, column: int) -> _Matrix:
    rows = entry.get(name) if isinstance(entry, dict) else None
    try:
        matrix = tuple(tuple(map(float, row)) for row in rows) if isinstance(rows, list) else ()
    except (TypeError, ValueError, OverflowError):
        matrix = ()
    square = len(matrix) == size and all(len(row) == size for row in matrix)
    if not square or not all(map(math.isfinite, chain(*matrix))):
        raise PathError(index, column, f"{name} is not {size} rows of {size} numbers")
    return matrix


def _is_rigid(c2w: _Matrix) -> bool:
    axes = tuple(zip(*_rotation(c2w), strict=True))
    pairs = combinations_with_replacement(range(3), 2)
    close = all(abs(_dot(axes[i], axes[j]) - (i == j)) <= 1e-2 for i, j in pairs)
    return close and math.dist(c2w[3], (0, 0, 0, 1)) < 1e-6


def _rotation(c2w: _Matrix) -> _Matrix:
    return tuple(row[:3] for row in c2w[:3])


def _place(c2w: _Matrix) -> _Triple:
    return c2w[0][3], c2w[1][3], c2w[2][3]


def _dot(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return sum(map(mul, a, b))


def _times(a: _Matrix, b: _Matrix) -> _Matrix:
    columns = tuple(zip(*b, strict=True))
    return tuple(tuple(x * p + y * q + z * r for p, q, r in columns) for x, y, z in a)


def _trace(a: _Matrix, b: _Matrix) -> float:
    """Returns the trace of the inverse of the rotation `a` times `b`."""
    return sum(map(_dot, a, b))


@lru_cache(maxsize=256)  # one entry for each combination of keys and each of the few step sizes
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


def _nearest_walk(place: _Triple, wanted: _Triple, rotation: _Matrix, metres: float) -> tuple[str, ...]:
    """Returns the walking keys that come closest to `wanted`; none if standing still is as close."""
    way = tuple(map(sub, wanted, place))
    aside, _, ahead = (_dot(way, axis) for axis in zip(*rotation, strict=True))
    half = metres / 2 + 1e-9
    held = (
        "w" if ahead > half else "s" if ahead < -half else "",
        "d" if aside > half else "a" if aside < -half else "",
    )
    return tuple(filter(None, held))


def _angle(a: _Matrix, b: _Matrix) -> float:
    """Returns the degrees between two rotations, from the norm of their difference: exact for small ones."""
    difference = math.dist(tuple(chain(*a)), tuple(chain(*b)))
    return math.degrees(2 * math.asin(min(1.0, difference / math.sqrt(8))))
