"""Videos to continue: their last frames, at the model's frame rate and size."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from backends.base import BackendSpec
from backends.media import clips
from backends.media.clips import ClipError, Limits

__all__ = ["KEPT_FRAMES", "ClipError", "read_clip"]

KEPT_FRAMES = 240  # more than any model's context at the start; a frame takes a megabyte or more
_MOST_READ = Limits.frames
_MOST_PIXELS = Limits.frame_pixels
_MOST_IN_ALL = Limits.pixels


def read_clip(path: str | Path, spec: BackendSpec) -> np.ndarray:
    """Returns the last frames as uint8 [T, H, W, 3] at `spec.fps`. Raises ClipError."""
    limits = Limits(_MOST_PIXELS, _MOST_READ, _MOST_IN_ALL)
    return clips.read_clip(Path(path), spec.fps, (spec.width, spec.height), KEPT_FRAMES, limits)
