"""Camera paths as text: `w-8, right-4`, HY-WorldPlay's pose grammar, as typed moves.

A segment is `keys-duration`: keys are w s a d (walk) and left right up down (turn), joined by `+` when held
together; the duration counts latent frames. The duration may be left out (1). `still` holds no key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

KEYS = ("w", "s", "a", "d", "left", "right", "up", "down")
MAX_PATH_LATENTS = 4096
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


def parse_path(text: str) -> tuple[CameraMove, ...]:
    """Moves of `text`; an empty text is an empty path. Raises PathError with the position of the mistake."""
    if not text.strip():
        return ()
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
        latents = int(match[2][:9]) if match[2] else 1
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


def each_latent(moves: Iterable[CameraMove]) -> Iterator[tuple[str, ...]]:
    """The keys held during each latent frame of the path."""
    for move in moves:
        for _ in range(move.latents):
            yield move.keys
