"""Frames to mp4 and back, for a report."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

_BT709 = 1  # H.273 code of primaries, transfer and matrix alike


def write(path: Path, frames: Iterable[np.ndarray], fps: int, settings: Mapping[str, Any]) -> None:
    """Encodes frames uint8 [H, W, 3] with even sides as mp4, `settings` in its comment.

    Raises OSError where it cannot be written, ValueError where there is no frame.
    """
    convert = VideoReformatter()
    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
            container.metadata["comment"] = json.dumps(settings, ensure_ascii=False)
            stream = container.add_stream("libx264", rate=fps)
            context = stream.codec_context
            context.pix_fmt, context.time_base = "yuv420p", Fraction(1, fps)
            context.colorspace = context.color_primaries = context.color_trc = _BT709
            context.color_range = ColorRange.MPEG
            context.options = {"preset": "veryfast", "crf": "16"}
            index = -1
            for index, pixels in enumerate(frames):
                if index == 0:
                    context.height, context.width = pixels.shape[:2]
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                frame = convert.reformat(
                    frame, format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG
                )
                frame.pts, frame.time_base = index, Fraction(1, fps)
                container.mux(stream.encode(frame))
            if index < 0:
                raise ValueError("there is no frame to write")
            container.mux(stream.encode(None))
    except FFmpegError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def read(path: Path) -> Iterator[np.ndarray]:
    """Yields frames uint8 [H, W, 3]. Raises OSError for what is no video."""
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield frame.to_ndarray(format="rgb24")
    except FFmpegError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
