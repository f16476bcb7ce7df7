"""Untrusted picture files: identified by content, bounded before decoding, returned as a viewer shows them.

Pictures are scaled down first and converted afterwards, so that only the decoded picture itself is ever
large.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError

from backends.media import decoding

MAX_PIXELS = 25_000_000
MAX_JPEG_PIXELS = 110_000_000  # phones take 108 million; decoded at 1/2, 1/4 or 1/8 of each side
MAX_SCANS_PIXELS = 51_000_000  # of a progressive JPEG: all its coefficients are in memory at once
KEPT_SIDE = 2048  # no generator uses more
# Pillow knows dozens more, some of which start other programs.
_FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
_FLIPS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# TIFF tags and values.
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT, _LEAST, _MOST = 258, 262, 339, 340, 341
_WHITE_IS_ZERO, _SIGNED = 0, 2

# A picture may contain a workflow or a profile of megabytes, compressed; all texts together stay within 64
# MB.
PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, 32 << 20)
# Pillow warns of large pictures and of odd metadata. The limits here are ours, and odd metadata is ignored.
# The filter is set for good, not around a call: filters are global, and pictures are read in several threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


class PictureError(ValueError):
    """Raised for a picture that cannot be used; the message is a sentence for the user."""


def read_picture(path: Path, *, min_side: int, most_bytes: int = decoding.MOST_BYTES) -> np.ndarray:
    """Returns the first frame as uint8 sRGB [H, W, 3], upright; transparent parts become white.

    At most two pictures and clips are decoded at once in a process; other calls wait. Raises PictureError.
    """
    with decoding.turn:
        try:
            if path.stat().st_size == 0:
                raise PictureError("This file is empty (0 bytes). Pick another picture.")
            if refusal := decoding.too_many_bytes(path, most_bytes):
                raise PictureError(refusal)
            # Opened as a file, not by name: Pillow would map a TIFF into memory, with the sides of a rotated
            # one swapped.
            with path.open("rb") as file, Image.open(file, formats=_FORMATS) as opened:
                return _pixels(opened, min_side)
        except PictureError:
            raise
        except UnidentifiedImageError:
            raise PictureError(
                "This file is not a picture that can be read here. Use PNG, JPEG or WebP."
            ) from None
        except Image.DecompressionBombError:
            raise PictureError(
                "This picture has far more than 100 megapixels. Scale it down first."
            ) from None
        # Decoders raise errors of many types, `struct.error` and AttributeError too; a user gets one.
        except Exception as error:
            raise PictureError(
                "This picture is damaged or cut short: it could not be read to its end."
            ) from error


def _pixels(opened: Image.Image, min_side: int) -> np.ndarray:
    width, height = opened.size
    most = MAX_PIXELS
    if opened.format in ("JPEG", "MPO"):
        most = MAX_SCANS_PIXELS if opened.info.get("progressive") else MAX_JPEG_PIXELS
    if width * height > most:
        raise PictureError(_too_large(width * height, most))
    if min(width, height) < min_side:
        raise PictureError(f"This picture is {width} x {height} pixels; it needs at least {min_side} a side.")
    # By the longer side: otherwise Pillow would decode a long strip in full.
    shrink = max(1, max(width, height) // KEPT_SIDE)
    opened.draft("RGB", (max(1, width // shrink), max(1, height // shrink)))
    if isinstance(opened, TiffImagePlugin.TiffImageFile):
        _leave_only_orientation(opened)
    opened.load()
    # After loading: some formats store the orientation behind the pixels, and Pillow has rotated a TIFF by
    # now.
    flip = _FLIPS.get(_orientation(opened))
    profile = opened.info.get("icc_profile")
    picture = _in_eight_bits(opened)
    picture.thumbnail((KEPT_SIDE, KEPT_SIDE), Image.Resampling.LANCZOS)
    picture = _opaque(_in_srgb(picture, profile))
    if flip is not None:
        picture = picture.transpose(flip)
    return np.asarray(picture).copy()


def _leave_only_orientation(opened: TiffImagePlugin.TiffImageFile) -> None:
    """Removes a TIFF's other metadata: Pillow rotates while loading and fails on what it cannot parse."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = _orientation(opened)
    opened.getexif = lambda: exif
    opened.info.pop("xmp", None)


def _orientation(opened: Image.Image) -> int:
    """Returns the EXIF orientation, 1 to 8; 1, upright, if it cannot be read."""
    try:
        found = opened.getexif().get(ExifTags.Base.Orientation, 1)
    # Broken metadata does not matter: the pixels are complete.
    except Exception:
        return 1
    return found if isinstance(found, int) else 1


def _in_eight_bits(opened: Image.Image) -> Image.Image:
    """Converts to a mode of gray, RGB or CMYK, perhaps with alpha, that supports scaling and profiles."""
    if opened.mode.startswith("I") or opened.mode == "F":
        return _gray(opened)
    key = opened.info.get("transparency")
    if opened.mode == "RGB" and isinstance(key, tuple) and max(key) > 255:
        # Given in 16 bits per channel, of which Pillow keeps the upper half.
        opened.info["transparency"] = tuple(value >> 8 for value in key)
    if opened.has_transparency_data:
        return opened if opened.mode in ("LA", "RGBA") else opened.convert("RGBA")
    if opened.mode == "1":
        return opened.convert("L")
    return opened if opened.mode in ("L", "RGB", "CMYK") else opened.convert("RGB")


def _gray(opened: Image.Image) -> Image.Image:
    """Scales deep grays by the range of their format, whatever values the picture has."""
    low, high = _range(opened)
    values = np.empty((opened.height, opened.width), np.uint8)
    key = opened.info.get("transparency")
    alpha = None if key is None else np.empty_like(values)
    # In strips: in 32-bit numbers the whole picture would be four times as large.
    for top in range(0, opened.height, 256):
        strip = np.asarray(opened.crop((0, top, opened.width, min(top + 256, opened.height))))
        if max(low, high) > 1 << 31:
            strip = strip.view(np.uint32)  # Pillow has signed numbers only
        share = (strip.astype(np.float32) - low) / (high - low)
        values[top : top + 256] = np.rint(255 * np.clip(np.nan_to_num(share), 0, 1))
        if alpha is not None:
            alpha[top : top + 256] = np.where(strip == key, 0, 255)
    picture = Image.fromarray(values)
    if alpha is not None:
        picture.putalpha(Image.fromarray(alpha))
    return picture


def _range(opened: Image.Image) -> tuple[float, float]:
    """Returns the values of black and of white."""
    tags = getattr(opened, "tag_v2", None)
    if tags is None:
        return 0, 65_535  # PNG's
    if opened.mode == "F":
        low, high = (_number(tags.get(tag), usual) for tag, usual in ((_LEAST, 0.0), (_MOST, 1.0)))
        if not low < high:
            low, high = 0.0, 1.0
    else:
        bits = int(_number(tags.get(_BITS), 16))
        signed = _number(tags.get(_SAMPLE_FORMAT), 1) == _SIGNED
        low, high = 0.0, float((1 << (bits - 1 if signed else bits)) - 1)
    return (high, low) if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else (low, high)


def _number(value: object, usual: float) -> float:
    """Returns the first value of a TIFF tag."""
    if isinstance(value, tuple) and value:
        value = value[0]
    return float(value) if isinstance(value, (int, float)) and np.isfinite(value) else usual


def _in_srgb(picture: Image.Image, profile: object) -> Image.Image:
    """Converts to RGB or RGBA.

    A profile that is broken, or of another color space than the picture, is ignored.
    """
    alpha = picture.getchannel("A") if picture.mode in ("LA", "RGBA") else None
    colors = picture.convert(picture.mode.removesuffix("A")) if alpha else picture
    if isinstance(profile, bytes):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if profile[16:20] == b"RGB " and colors.mode == "L":
                colors = colors.convert("RGB")
            target = ImageCms.createProfile("sRGB")
            colors = ImageCms.profileToProfile(colors, source, target, outputMode="RGB") or colors
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            pass
    colors = colors.convert("RGB")
    if alpha is not None:
        colors.putalpha(alpha)
    return colors


def _opaque(picture: Image.Image) -> Image.Image:
    if picture.mode == "RGB":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def _too_large(pixels: int, most: int) -> str:
    return (
        f"This picture has {pixels / 1e6:.0f} megapixels; the limit is {most / 1e6:.0f}. Scale it down first."
    )
