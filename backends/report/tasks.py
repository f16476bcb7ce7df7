"""Tasks of a report: prompts with camera paths, pictures and seeds, from a file or a generator's own."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backends.base import BackendSpec, Request
from backends.camera import CameraMove, parse_path
from backends.media.images import PictureError, read_picture
from backends.validation import MIN_SIDE, check

_KEYS = {"prompt": str, "path": str, "picture": str, "seed": int}


@dataclass(frozen=True, slots=True)
class Task:
    """One video to generate with every codec. `path` is a camera path as text, "" for none."""

    prompt: str
    path: str = ""
    picture: Path | None = None
    seed: int = 0

    def described(self) -> dict[str, Any]:
        """Returns the task as JSON; a picture by its name and its content's SHA-256."""
        picture = None
        if self.picture is not None:
            content = hashlib.sha256(self.picture.read_bytes()).hexdigest()
            picture = {"name": self.picture.name, "sha256": content}
        return {"prompt": self.prompt, "path": self.path, "picture": picture, "seed": self.seed}

    def folder(self, number: int) -> str:
        """Returns the name of the task's folder in a report; `number` counts from 0."""
        words = re.sub(r"[^a-z0-9]+", "-", self.prompt.lower())[:40].strip("-")
        return f"{number + 1:02d}-{words}".rstrip("-")


@dataclass(frozen=True, slots=True)
class Length:
    """Length and manner of all videos."""

    blocks: int
    mode: str = ""
    options: tuple[tuple[str, str], ...] = ()


def request(task: Task, spec: BackendSpec, length: Length) -> Request:
    """Returns the request for a generator. Raises ValueError with a sentence if it is invalid."""
    moves = parse_path(task.path, spec.metres_per_latent, spec.degrees_per_latent)
    made = Request(
        prompt=task.prompt,
        image=None if task.picture is None else _picture(task.picture),
        moves=moves,
        seed=task.seed,
        blocks=length.blocks,
        mode=length.mode,
        options=length.options,
    )
    check(made, spec)
    return made


def usual(spec: BackendSpec, blocks: int, seeds: Sequence[int]) -> tuple[Task, ...]:
    """Returns the generator's own examples; a camera, if it has one, turns away and comes back."""
    return tuple(
        Task(prompt, there_and_back(spec, blocks), None, seed) for prompt in spec.examples for seed in seeds
    )


def there_and_back(spec: BackendSpec, blocks: int) -> str:
    """Returns a turn to the right and back of `blocks` blocks; "" for a generator without a camera."""
    half = blocks * spec.latents_per_block // 2
    if "camera" not in spec.inputs or not half:
        return ""
    return f"{CameraMove(('right',), half)}, {CameraMove(('left',), half)}"


def read(path: Path, spec: BackendSpec, length: Length, seeds: Sequence[int]) -> tuple[Task, ...]:
    """Returns the tasks in a prompts file, in its order, each prompt with every seed.

    A line is a prompt, `prompt | camera path`, or JSON with "prompt" and optionally "path", "picture" (a
    file, relative to this one) and "seed" (in place of `seeds`). Empty lines and lines that begin with # are
    skipped. Raises ValueError with the line's number and what is wrong with it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8 text: save it as plain text, one prompt a line.") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}.") from None
    tasks: list[Task] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        try:
            found = tuple(_of_line(line.strip(), path.parent, spec, length.blocks, seeds))
            for task in found:
                request(task, spec, length)
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
        tasks += found
    if not tasks:
        raise ValueError(f"{path} holds no prompt: write one a line.")
    return tuple(dict.fromkeys(tasks))


def _of_line(line: str, folder: Path, spec: BackendSpec, blocks: int, seeds: Sequence[int]) -> Iterator[Task]:
    path = there_and_back(spec, blocks)
    if not line.startswith("{"):
        prompt, bar, own_path = line.rpartition("|")
        words, path = (prompt, own_path) if bar else (line, path)
        yield from (Task(words.strip(), path.strip(), None, seed) for seed in seeds)
        return
    try:
        requested = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this is not JSON on one line: {error}") from None
    _check_keys(requested)
    picture = folder / requested["picture"] if "picture" in requested else None
    for seed in [requested["seed"]] if "seed" in requested else seeds:
        yield Task(requested.get("prompt", ""), requested.get("path", path).strip(), picture, seed)


def _check_keys(requested: Mapping[str, Any]) -> None:
    for name, value in requested.items():
        if name not in _KEYS:
            raise ValueError(f"there is no {name!r}: use {', '.join(_KEYS)}.")
        if type(value) is not _KEYS[name]:
            kind = "a whole number" if _KEYS[name] is int else "text"
            raise ValueError(f"{name!r} is {kind}, not {json.dumps(value)[:40]}.")
    if not requested.get("prompt", "").strip() and "picture" not in requested:
        raise ValueError("there is neither a prompt nor a picture.")


def _picture(path: Path) -> np.ndarray:
    if not path.is_file():
        raise ValueError(f"there is no picture {path}.")
    try:
        return read_picture(path, min_side=MIN_SIDE)
    except PictureError as error:
        raise ValueError(f"{path.name}: {error}") from None
