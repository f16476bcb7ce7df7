"""A prompt's videos beside each other: as one mp4, and as a contact sheet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import imageio.v3 as iio
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from backends.report import video_file

_GAP = 8
_MIN_WIDTH = 320  # of a video: below, its label would not fit
_WIDEST = 2600  # of all beside each other: what players and browsers decode with ease
_MOMENTS, _THUMB = 6, 240  # of a contact sheet: columns, and pixels across each
_INK, _PAPER, _MUTED = (240, 240, 238), (18, 19, 22), (160, 164, 172)


class Side(NamedTuple):
    """A video and what is written over it."""

    video: Path
    name: str
    note: str


def side_by_side(sides: Sequence[Side], target: Path, fps: int, settings: Mapping[str, Any]) -> None:
    """Writes an mp4 of all, in step; one that ends early stays on its last frame."""
    video_file.write(target, _pictures(sides), fps, settings)


def _pictures(sides: Sequence[Side]) -> Iterator[np.ndarray]:
    """Yields uint8 [H, W, 3] with even sides, frame after frame: rows of as many as are wide enough."""
    last: list[np.ndarray | None] = [None] * len(sides)
    bars: list[Image.Image] = []
    for frames in zip_longest(*(video_file.read(side.video) for side in sides)):
        last = [new if new is not None else old for new, old in zip(frames, last, strict=True)]
        shown = [frame for frame in last if frame is not None]
        height, original = shown[0].shape[:2]
        wide = max(original, _MIN_WIDTH)
        tall = round(height * wide / original)
        bars = bars or [_label(side, wide) for side in sides]
        columns = min(len(sides), max(1, _WIDEST // (wide + _GAP)))
        cell = tall + max(bar.height for bar in bars)
        rows = -(-len(sides) // columns)
        size = (columns * (wide + _GAP) - _GAP, rows * (cell + _GAP) - _GAP)
        canvas = Image.new("RGB", (size[0] // 2 * 2, size[1] // 2 * 2), _PAPER)
        for number, (bar, frame) in enumerate(zip(bars, shown, strict=True)):
            x, y = number % columns * (wide + _GAP), number // columns * (cell + _GAP)
            canvas.paste(bar, (x, y))
            canvas.paste(_scaled(frame, wide, tall), (x, y + cell - tall))
        yield np.asarray(canvas)


def contact_sheet(sides: Sequence[Side], target: Path, frames: int, fps: int) -> None:
    """Writes a JPEG: a row for each video, a column for each of some moments of the longest one."""
    moments = sorted({round(at * (frames - 1) / (_MOMENTS - 1)) for at in range(_MOMENTS)})
    font = ImageFont.load_default(14)
    rows = []
    for side in sides:
        found = {at: frame for at, frame in enumerate(video_file.read(side.video)) if at in moments}
        rows.append([found.get(at) for at in moments])
    first = next(frame for row in rows for frame in row if frame is not None)
    tall = round(first.shape[0] * _THUMB / first.shape[1])
    margin = max(int(font.getlength(side.name)) for side in sides) + 2 * _GAP
    head = 28
    width = margin + len(moments) * (_THUMB + _GAP)
    sheet = Image.new("RGB", (width, head + len(sides) * (tall + _GAP)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for column, at in enumerate(moments):
        pen.text((margin + column * (_THUMB + _GAP), _GAP), f"{at / fps:.1f} s", _MUTED, font=font)
    for line, (side, row) in enumerate(zip(sides, rows, strict=True)):
        y = head + line * (tall + _GAP)
        pen.text((_GAP, y + tall // 2 - 8), side.name, _INK, font=font)
        for column, frame in enumerate(row):
            x = margin + column * (_THUMB + _GAP)
            if frame is None:
                pen.text((x + _GAP, y + tall // 2 - 8), "not made", _MUTED, font=font)
            else:
                sheet.paste(_scaled(frame, _THUMB, tall), (x, y))
    iio.imwrite(target, np.asarray(sheet), plugin="pillow", extension=".jpeg", quality=88)


def _scaled(frame: np.ndarray, width: int, height: int) -> Image.Image:
    picture = Image.fromarray(frame)
    return (
        picture
        if picture.size == (width, height)
        else picture.resize((width, height), Image.Resampling.LANCZOS)
    )


def _label(side: Side, width: int) -> Image.Image:
    """Returns the strip above a video: its name, and its figures in one line."""
    sizes = max(15, width // 24), max(11, width // 36)
    large, small = (ImageFont.load_default(size) for size in sizes)
    head, line = int(sizes[0] * 1.35), int(sizes[1] * 1.3)
    strip = Image.new("RGB", (width, _GAP + head + line + _GAP), _PAPER)
    pen = ImageDraw.Draw(strip)
    pen.text((_GAP, _GAP - 2), side.name, _INK, font=large)
    pen.text((_GAP, _GAP + head), side.note, _MUTED, font=small)
    return strip
