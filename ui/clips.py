"""A video to go on from, as a generator takes it: its last frames, at the generator's rate and no larger."""

from __future__ import annotations

from collections import deque
from pathlib import Path

import av
import numpy as np
from av.error import FFmpegError

from backends.base import BackendSpec
from ui import media

KEPT_FRAMES = 240  # more than any generator looks back on in the beginning; a frame is a megabyte and more
_MOST_READ = 30_000  # frames of a file: beyond, reading takes minutes
_MOST_PIXELS = 8192 * 4320  # of a frame: a small file can claim gigabytes
_MOST_IN_ALL = _MOST_READ * 1280 * 720


class ClipError(ValueError):
    """The clip cannot be used; the message is a sentence for the user."""


def read_clip(path: str | Path, spec: BackendSpec) -> np.ndarray:
    """uint8 [T, H, W, 3] at `spec.fps`. Raises ClipError."""
    last: deque[np.ndarray] = deque(maxlen=KEPT_FRAMES)
    try:
        with av.open(str(path), options=dict(media.FROM_STRANGERS)) as container:
            # A stream that nothing here can decode has no codec.
            readable = [stream for stream in container.streams.video if stream.codec_context is not None]
            if not readable:
                raise ClipError("This file has no picture in it that can be read here. Pick a video.")
            stream = readable[0]
            pixels = stream.codec_context.width * stream.codec_context.height
            if pixels > _MOST_PIXELS:
                raise ClipError(f"This video has {pixels / 1e6:.0f} megapixels a frame: scale it down first.")
            most = min(_MOST_READ, _MOST_IN_ALL // max(pixels, 1))
            size = _size(stream.codec_context.width, stream.codec_context.height, spec)
            taken = 0
            for number, frame in enumerate(container.decode(stream)):
                if number == most:
                    raise ClipError(
                        f"This video has more than {most:,} frames of this size: cut it to its end first."
                    )
                # Time says which frames a slower rate keeps, and which a faster one shows twice.
                time = number / float(stream.average_rate or spec.fps) if frame.time is None else frame.time
                wanted = int(time * spec.fps + 1e-6) + 1 - taken
                if wanted > 0:
                    picture = frame.to_ndarray(format="rgb24", width=size[0], height=size[1])
                    last.extend([picture] * min(wanted, KEPT_FRAMES))
                    taken += wanted
    except ClipError:
        raise
    except (FFmpegError, OSError, ValueError) as error:  # the last one of names that are no UTF-8
        raise ClipError("This file is not a video that can be read here. Use mp4, webm or mov.") from error
    if not last:
        raise ClipError("This video has no frames in it.")
    return np.stack(last)


def _size(width: int, height: int, spec: BackendSpec) -> tuple[int, int]:
    """What covers the generator's picture; never more than there is."""
    scale = min(1.0, max(spec.width / max(width, 1), spec.height / max(height, 1)))
    return max(2, round(width * scale)), max(2, round(height * scale))
