"""Exports of a comparison: its sides beside each other with names and measurements, as mp4, GIF or WebP."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from backends.base import BackendSpec
from backends.media import animation
from backends.media.video import VideoWriter
from ui import text
from ui.format import decibels, size, times
from ui.runs import history, mp4
from ui.runs.history import Past
from ui.runs.side import Figures

Kind = Literal["mp4", "gif", "webp", "json"]
_GAP = 8
_MIN_WIDTH = 320  # of a side, in pixels: its label does not fit into less
_ANIMATION_FPS, _ANIMATION_SIDE = 12, 480  # GIF and WebP are for web pages and chats
# DejaVu Sans without its rarer scripts. Pillow's own font lacks × and ·.
_FONT = Path(__file__).resolve().parents[2] / "assets" / "fonts" / "DejaVuSans.ttf"
_INK, _PAPER, _MUTED = (240, 240, 238), (18, 19, 22), (160, 164, 172)


class Side(NamedTuple):
    """A video and its label."""

    video: Path
    name: str
    note: str


def write(past: Past, kind: Kind) -> Path:
    """Writes an export into the run's own folder and returns the file. Raises OSError or ValueError."""
    fps = int(past.made.get("fps") or 1)
    name = past.videos[0].stem if past.videos else "comparison"
    target = past.folder / "export" / f"{name}-side-by-side.{kind}"
    target.parent.mkdir(exist_ok=True)
    settings = history.for_others(past.settings)
    try:
        if kind == "json":
            target.write_text(json.dumps(settings, ensure_ascii=False, indent=1), encoding="utf-8")
            return target
        sides = sides_of(past.videos, past.sides, history.spec_of(past.settings))
        if kind in ("gif", "webp"):
            write_animation(sides, target, fps)
        else:
            write_mp4(sides, target, fps, settings)
    except Exception:
        # Otherwise a truncated file would pass for a whole one, and occupy a full disk.
        target.unlink(missing_ok=True)
        raise
    return target


def sides_of(videos: Sequence[Path], figures: Sequence[Figures], spec: BackendSpec | None) -> list[Side]:
    """Returns the sides in order. Raises ValueError if a side has no video."""
    sides = []
    for video, side in zip(videos, figures, strict=True):
        notes = [f"{size(side['kv_bytes'][-1])} ({times(side['ratio'])})"]
        if spec is not None:
            notes.append(text.fate(side["drops_from"], side["ends_after"], spec.video_frames))
        if side["psnr"] is not None:
            notes.append(decibels(side["psnr"]))
        if side["revisit_psnr"] is not None:
            notes.append(text.revisit(side["revisit_psnr"]))
        sides.append(Side(video, side["codec"], " · ".join(filter(None, notes))))
    return sides


def write_mp4(sides: Sequence[Side], target: Path, fps: int, settings: Mapping[str, Any]) -> None:
    """Writes all sides at full size, in step; one that ends early stays on its last frame."""
    comment = json.dumps(settings, ensure_ascii=False)
    with VideoWriter(
        target, fps, 16, container={"movflags": "faststart"}, encoder={"preset": "veryfast"}, comment=comment
    ) as writer:
        writer.add(_pictures(sides, None))
        if not writer.frames:
            raise ValueError("there is no frame to export")


def write_animation(sides: Sequence[Side], target: Path, fps: int) -> None:
    """Writes a GIF or WebP, by the suffix of `target`: smaller, and at most twelve frames a second."""
    every = max(1, round(fps / _ANIMATION_FPS))
    frames = [frame for at, frame in enumerate(_pictures(sides, _ANIMATION_SIDE)) if at % every == 0]
    if not frames:
        raise ValueError("there is no frame to export")
    animation.write(target, frames, fps / every)


def _pictures(sides: Sequence[Side], width: int | None) -> Iterator[np.ndarray]:
    """Yields the frames of the export: uint8 [H, W, 3] with even H and W."""
    last: list[np.ndarray | None] = [None] * len(sides)
    bar: np.ndarray | None = None
    for frames in zip_longest(*(mp4.decode(side.video) for side in sides)):
        last = [new if new is not None else old for new, old in zip(frames, last, strict=True)]
        shown = [frame for frame in last if frame is not None]
        if len(shown) < len(sides):
            raise ValueError("a side has no frame")
        height, original = shown[0].shape[:2]
        wide = width or max(original, _MIN_WIDTH)
        tall = round(height * wide / original)
        scaled = [
            frame
            if wide == original
            else np.asarray(Image.fromarray(frame).resize((wide, tall), Image.Resampling.LANCZOS))
            for frame in shown
        ]
        if bar is None:
            bar = _labels(sides, wide)
        gap = np.full((tall, _GAP, 3), _PAPER, np.uint8)
        row = np.concatenate([part for frame in scaled for part in (frame, gap)][:-1], axis=1)
        picture = np.concatenate([bar, row], axis=0)
        yield np.ascontiguousarray(picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2])


def _labels(sides: Sequence[Side], width: int) -> np.ndarray:
    """Returns the strip above the pictures, uint8 [H, W, 3]: names, and measurements on as many lines as
    needed."""
    large_size, small_size = max(15, width // 24), max(11, width // 36)
    large, small = ImageFont.truetype(_FONT, large_size), ImageFont.truetype(_FONT, small_size)
    lines = [_wrapped(drawable(side.note), small, width - 2 * _GAP) for side in sides]
    head, step = int(large_size * 1.35), int(small_size * 1.3)
    height = _GAP + head + step * max(map(len, lines)) + _GAP
    strip = Image.new("RGB", (width * len(sides) + _GAP * (len(sides) - 1), height), _PAPER)
    pen = ImageDraw.Draw(strip)
    for number, (side, notes) in enumerate(zip(sides, lines, strict=True)):
        x = number * (width + _GAP) + (_GAP if number == 0 else 2)
        pen.text((x, _GAP - 2), drawable(side.name), _INK, font=large)
        for line, words in enumerate(notes):
            pen.text((x, _GAP + head + line * step), words, _MUTED, font=small)
    return np.asarray(strip)


def drawable(words: str) -> str:
    """Returns `words` without missing-glyph boxes: characters that the font lacks become similar ones, or a
    question mark."""
    return "".join(each if has_glyph(each) else _stand_in(each) for each in words)


def _stand_in(character: str) -> str:
    if unicodedata.category(character) in ("Mn", "Me", "Cf"):
        return ""  # belongs to the character before it
    alike = "".join(filter(has_glyph, unicodedata.normalize("NFKD", character)))
    return alike or "?"


@lru_cache(maxsize=4096)
def has_glyph(character: str) -> bool:
    """Returns whether exports can draw a character."""
    return _drawn(character) != _drawn("\uffff")


def _drawn(character: str) -> bytes:
    image = Image.new("L", (48, 48))
    ImageDraw.Draw(image).text((8, 8), character, 255, font=ImageFont.truetype(_FONT, 24))
    return image.tobytes()


def _wrapped(words: str, font: Any, width: int) -> list[str]:
    lines: list[str] = []
    for word in words.split(" "):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
