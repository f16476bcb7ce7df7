"""H.264 writer, and safe opening of untrusted video files.

Videos are written in BT.709, limited range, and tagged so: players disagree whether untagged video is BT.601
or BT.709.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

MOST_PIXELS = 8192 * 4320  # of a frame: a small file can claim gigabytes
TICKS = 1000  # time base units per frame, so that any frame rate divides evenly
# Codes of H.273: 1 for primaries, transfer and matrix alike.
_BT709, _UNSPECIFIED = 1, 2
_SMALL_PIXELS = 320 * 240  # below this, starting threads costs more than they save
_HD_WIDTH, _SD_HEIGHT = 1280, 576
# Formats are identified by content, whatever the name: a playlist would make FFmpeg open other files, local
# or remote.
_UNTRUSTED = {
    "format_whitelist": "mov,mp4,matroska,webm,avi,ogg,mpegts,flv,gif,apng",
    "protocol_whitelist": "file",
}


class VideoWriter:
    """An mp4 of uint8 RGB frames, encoded as they are added. Leaving its context completes the file."""

    def __init__(
        self,
        target: Path | BinaryIO,
        fps: int,
        crf: int,
        *,
        container: Mapping[str, str],
        encoder: Mapping[str, str] | None = None,
        comment: str = "",
    ) -> None:
        """Creates the file. `container` and `encoder` are FFmpeg's options for the mp4 muxer and for libx264.

        `crf` is libx264's constant rate factor. Raises OSError if the file cannot be created.
        """
        destination = str(target) if isinstance(target, Path) else target
        self._container = av.open(destination, "w", format="mp4", options=dict(container))
        if comment:
            self._container.metadata["comment"] = comment
        self._stream = self._container.add_stream("libx264", rate=fps)
        self._context = self._stream.codec_context
        self._context.options = {"crf": str(crf), **(encoder or {})}
        self._context.time_base = Fraction(1, fps * TICKS)
        self._convert = VideoReformatter()
        self.frames = 0

    def add(self, frames: Iterable[np.ndarray]) -> None:
        """Encodes `frames`: each uint8 [H, W, 3], all of one size. Raises ValueError for odd sides."""
        for pixels in frames:
            if not self.frames:
                self._begin(*pixels.shape[:2])
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = self._convert.reformat(
                frame, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
            )
            frame.pts, frame.time_base = self.frames * TICKS, self._context.time_base
            self._container.mux(self._stream.encode(frame))
            self.frames += 1

    def _begin(self, height: int, width: int) -> None:
        if height % 2 or width % 2:
            raise ValueError(f"H.264 in yuv420p needs even sides, not {width}x{height}")
        context = self._context
        context.width, context.height, context.pix_fmt = width, height, "yuv420p"
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = ColorRange.MPEG
        if height * width <= _SMALL_PIXELS:
            context.thread_count = 1

    @property
    def header(self) -> bytes:
        """Returns the encoder's parameter sets; empty before the first frame."""
        return bytes(self._context.extradata or b"")

    def close(self) -> None:
        if self.frames:
            self._container.mux(self._stream.encode(None))
        self._container.close()

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_untrusted(path: Path, max_pixels: int = MOST_PIXELS) -> InputContainer:
    """Opens a video file whose content may be anything, including tags that are not UTF-8.

    `max_pixels` bounds the frames that FFmpeg decodes to identify the streams. Raises FFmpegError, OSError or
    ValueError.
    """
    options = {**_UNTRUSTED, "max_pixels": str(max_pixels)}
    return av.open(str(path), options=options, metadata_errors="replace")


def to_rgb(frame: av.VideoFrame, **options: Any) -> np.ndarray:
    """Returns a decoded frame as an array, by default "rgb24", with the color matrix that players guess.

    Without a tag that is BT.709 for HD and BT.601 below.
    """
    matrix: dict[str, Any] = {}
    if frame.colorspace == _UNSPECIFIED and (frame.width >= _HD_WIDTH or frame.height > _SD_HEIGHT):
        matrix["src_colorspace"] = Colorspace.ITU709
    return frame.to_ndarray(**{"format": "rgb24", **matrix, **options})
