"""Start pictures: reading them, and thumbnails for the page."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
from PIL import Image

from backends.media import images
from backends.media.images import KEPT_SIDE, MAX_PIXELS, PictureError

__all__ = ["KEPT_SIDE", "MAX_PIXELS", "PictureError", "read_picture", "small_jpeg"]

MIN_SIDE = 16


def read_picture(path: str | Path) -> np.ndarray:
    """Returns uint8 [H, W, 3]; transparent parts become white. Raises PictureError."""
    return images.read_picture(Path(path), min_side=MIN_SIDE)


def small_jpeg(pixels: np.ndarray, side: int = 160) -> str:
    """Returns a thumbnail of `pixels`, at most `side` pixels on each side, as a data URL."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode("ascii")
