"""Validation of requests against a generator's spec, by the page before a job and by the session."""

from __future__ import annotations

import numpy as np

from backends.base import BackendSpec, Request
from backends.camera import MAX_PATH_LATENTS
from backends.plain_text import excerpt

MAX_PROMPT = 2_000  # characters
MAX_SEED = 2**31 - 1
MIN_SIDE, MAX_SIDE = 16, 8_192  # pixels of a picture's side
MAX_CLIP_FRAMES = 600


def check(request: Request, spec: BackendSpec) -> None:
    """Raises ValueError with a sentence for the user: what was expected, what came, the way out."""
    if not 1 <= request.blocks <= spec.max_blocks:
        raise ValueError(
            f"{spec.title} makes 1 to {spec.max_blocks} blocks, not {request.blocks}: choose a length."
        )
    if not 0 <= request.seed <= MAX_SEED:
        raise ValueError(f"A seed lies between 0 and {MAX_SEED:,}; {request.seed:,} does not.")
    for prompt in (request.prompt, *(change.prompt for change in request.changes)):
        if len(prompt) > MAX_PROMPT:
            raise ValueError(f"The prompt has {len(prompt):,} characters; shorten it to {MAX_PROMPT:,}.")
    if request.mode and request.mode not in (ids := [mode.id for mode in spec.modes]):
        choices = f"choose {', '.join(ids)}" if ids else "leave it empty"
        raise ValueError(f"{spec.title} has no mode {excerpt(request.mode)}: {choices}.")
    if request.reseeds and not spec.resumable:
        raise ValueError(f"{spec.title} cannot draw other noise inside a video: make a new one.")
    if request.moves:
        _check_path(request, spec)
    if request.image is not None:
        _check_image(request.image, spec)
    if request.clip is not None:
        _check_clip(request.clip, request.blocks, spec)
    if request.changes:
        _check_changes(request, spec)
    if request.preview and "preview" not in spec.inputs:
        raise ValueError(f"{spec.title} has no preview decoder: choose the full one.")
    for name, value in request.options:
        _check_option(name, value, spec)


def _check_path(request: Request, spec: BackendSpec) -> None:
    if "camera" not in spec.inputs:
        raise ValueError(f"{spec.title} has no camera to steer: clear the camera path.")
    latents = sum(move.latents for move in request.moves)
    if latents > MAX_PATH_LATENTS:
        raise ValueError(f"The camera path is {latents:,} latents long; the limit is {MAX_PATH_LATENTS:,}.")


def _check_option(name: str, value: str, spec: BackendSpec) -> None:
    option = next((option for option in spec.options if option.name == name), None)
    if option is None:
        raise ValueError(f"{spec.title} has no setting {excerpt(name)}: leave it out.")
    if value not in option.values:
        raise ValueError(
            f"{option.title} is one of {', '.join(option.values)}, not {excerpt(value)}: choose one."
        )


def _check_image(image: np.ndarray, spec: BackendSpec) -> None:
    if "image" not in spec.inputs:
        raise ValueError(f"{spec.title} takes no picture: remove it.")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"A picture is uint8 [height, width, 3]; this one is {image.dtype} {list(image.shape)}."
        )
    _check_size("The picture", *image.shape[:2])


def _check_clip(clip: np.ndarray, blocks: int, spec: BackendSpec) -> None:
    if "clip" not in spec.inputs:
        raise ValueError(f"{spec.title} cannot go on from a clip: remove it.")
    if clip.dtype != np.uint8 or clip.ndim != 4 or clip.shape[3] != 3:
        raise ValueError(
            f"A clip is uint8 [frames, height, width, 3]; this one is {clip.dtype} {list(clip.shape)}."
        )
    frames, height, width = clip.shape[:3]
    if frames > MAX_CLIP_FRAMES:
        raise ValueError(f"The clip has {frames:,} frames; give its last {MAX_CLIP_FRAMES} at most.")
    past = spec.clip_blocks(frames)
    if not past:
        raise ValueError(f"The clip has {frames} frames; {spec.video_frames(1)} make the first block.")
    if past + blocks > spec.max_blocks:
        raise ValueError(
            f"The clip and {blocks} blocks are {past + blocks}; {spec.title} makes {spec.max_blocks} at most."
        )
    _check_size("The clip", height, width)


def _check_changes(request: Request, spec: BackendSpec) -> None:
    if "changes" not in spec.inputs:
        raise ValueError(f"{spec.title} keeps one prompt for a whole video: remove the changes.")
    blocks = [change.block for change in request.changes]
    if blocks != sorted(set(blocks)) or not 1 <= blocks[0] <= blocks[-1] < request.blocks:
        raise ValueError(
            f"The prompt changes at blocks {', '.join(map(str, blocks))}; it can at blocks 1 to "
            f"{request.blocks - 1}, in order and once at each."
        )


def _check_size(what: str, height: int, width: int) -> None:
    if min(height, width) < MIN_SIDE or max(height, width) > MAX_SIDE:
        raise ValueError(
            f"{what} is {width} x {height} pixels; its sides must be {MIN_SIDE} to {MAX_SIDE:,}."
        )
