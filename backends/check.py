"""Can the generator take this request? Asked by the page before a job is queued, and again by the session."""

from __future__ import annotations

import numpy as np

from backends.base import BackendSpec, Request
from backends.camera import MAX_PATH_LATENTS

MAX_PROMPT = 2_000  # characters
MAX_SEED = 2**31 - 1
MIN_SIDE, MAX_SIDE = 16, 8_192  # pixels of a picture


def check(request: Request, spec: BackendSpec) -> None:
    """Raises ValueError with a sentence for the user: what was expected, what came, the way out."""
    if not 1 <= request.blocks <= spec.max_blocks:
        raise ValueError(
            f"{spec.title} makes 1 to {spec.max_blocks} blocks, not {request.blocks}: choose a length."
        )
    if not 0 <= request.seed <= MAX_SEED:
        raise ValueError(f"A seed lies between 0 and {MAX_SEED:,}; {request.seed:,} does not.")
    if len(request.prompt) > MAX_PROMPT:
        raise ValueError(f"The prompt has {len(request.prompt):,} characters; shorten it to {MAX_PROMPT:,}.")
    if request.moves:
        _check_path(request, spec)
    if request.image is not None:
        _check_image(request.image, spec)


def _check_path(request: Request, spec: BackendSpec) -> None:
    if "camera" not in spec.inputs:
        raise ValueError(f"{spec.title} has no camera to steer: clear the camera path.")
    latents = sum(move.latents for move in request.moves)
    if latents > MAX_PATH_LATENTS:
        raise ValueError(f"The camera path is {latents:,} latents long; the limit is {MAX_PATH_LATENTS:,}.")


def _check_image(image: np.ndarray, spec: BackendSpec) -> None:
    if "image" not in spec.inputs:
        raise ValueError(f"{spec.title} takes no picture: remove it.")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f"A picture is uint8 [height, width, 3]; this one is {image.dtype} {list(image.shape)}."
        )
    height, width = image.shape[:2]
    if min(height, width) < MIN_SIDE or max(height, width) > MAX_SIDE:
        raise ValueError(
            f"The picture is {width} x {height} pixels; its sides must be {MIN_SIDE} to {MAX_SIDE:,}."
        )
