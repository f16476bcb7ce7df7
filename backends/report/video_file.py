"""Video files of a report: frames to mp4 and back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError

from backends.media.video import VideoWriter, to_rgb

_CRF = 16  # visually lossless: the videos are for comparing


def write(path: Path, frames: Iterable[np.ndarray], fps: int, settings: Mapping[str, Any]) -> None:
    """Encodes frames uint8 [H, W, 3] with even sides as mp4, `settings` in its comment.

    Raises OSError if the file cannot be written.
    """
    options = {"container": {"movflags": "faststart"}, "encoder": {"preset": "veryfast"}}
    comment = json.dumps(settings, ensure_ascii=False)
    try:
        with VideoWriter(path, fps, _CRF, **options, comment=comment) as writer:
            writer.add(frames)
    except FFmpegError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def read(path: Path) -> Iterator[np.ndarray]:
    """Yields frames uint8 [H, W, 3]. Raises OSError for a file that is not a video."""
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                yield to_rgb(frame)
    except FFmpegError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
