"""A picture from a stranger: judged by its content, opened before it is decoded, turned upright, made RGB."""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MAX_PIXELS = 25_000_000
MIN_SIDE = 16
KEPT_SIDE = 2048  # no generator looks at more
# Pillow knows dozens more, some of which start other programs.
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")


class PictureError(ValueError):
    """The picture cannot be used; the message is a sentence for the user."""


def read_picture(path: str | Path) -> np.ndarray:
    """uint8 [H, W, 3]; transparent parts become white."""
    file = Path(path)
    try:
        if file.stat().st_size == 0:
            raise PictureError("This file is empty (0 bytes). Pick another picture.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large pictures; the limit below is ours
            with Image.open(file, formats=FORMATS) as opened:
                return _pixels(opened)
    except UnidentifiedImageError:
        raise PictureError(
            "This file is not a picture that can be read here. Use PNG, JPEG or WebP."
        ) from None
    except Image.DecompressionBombError:
        raise PictureError(_too_large("far more than 100")) from None
    except (OSError, SyntaxError, ValueError, EOFError, MemoryError) as error:
        if isinstance(error, PictureError):
            raise
        raise PictureError("This picture is damaged or cut short: it could not be read to its end.") from None


def small_jpeg(pixels: np.ndarray, side: int = 160) -> str:
    """A thumbnail as a data address."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=85)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode("ascii")


def _pixels(opened: Image.Image) -> np.ndarray:
    width, height = opened.size
    if width * height > MAX_PIXELS:
        raise PictureError(_too_large(f"{width * height / 1e6:.0f}"))
    if min(width, height) < MIN_SIDE:
        raise PictureError(f"This picture is {width} x {height} pixels; it needs at least {MIN_SIDE} a side.")
    opened.draft("RGB", (KEPT_SIDE, KEPT_SIDE))
    upright = ImageOps.exif_transpose(opened)
    if upright.mode.startswith("I;16") or upright.mode in ("I", "F"):
        upright = _to_8_bit(upright)
    if upright.has_transparency_data:
        upright = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", upright.size, "white"), upright)
    upright = upright.convert("RGB")
    upright.thumbnail((KEPT_SIDE, KEPT_SIDE), Image.Resampling.LANCZOS)
    return np.asarray(upright).copy()


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Pillow clips deep greys at 255 instead of scaling them."""
    values = np.asarray(image, np.float32)
    low, high = float(values.min()), float(values.max())
    return Image.fromarray(((values - low) * (255 / max(high - low, 1e-6))).astype(np.uint8))


def _too_large(megapixels: str) -> str:
    return (
        f"This picture has {megapixels} megapixels; the limit is {MAX_PIXELS / 1e6:.0f}. Scale it down first."
    )
