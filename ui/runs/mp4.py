"""Video files: one self-contained fMP4 segment per block for the player, one mp4 per run to keep.

Every segment starts with a key frame and has its own header, so that any browser can append it. The final
file is made by copying packets, never by encoding twice.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import av
import numpy as np
from av.error import FFmpegError

from backends.media import decoding, video
from backends.media.video import TICKS, VideoWriter
from ui import safe_json

_SMALL_PIXELS = 320 * 240  # below this a low crf costs a few kB and keeps edges crisp when scaled up
_FRAGMENTED = {"movflags": "frag_keyframe+empty_moov+default_base_moof"}
# zerolatency: no B-frames, hence no reordering gap between appended segments.
# A fixed key frame interval keeps the header the same for blocks of any length: `join` needs that.
_ALONE = {"preset": "veryfast", "tune": "zerolatency", "g": "1000"}


class Segmented(NamedTuple):
    """A segment for the player: its bytes, and the MIME type to open its source buffer with."""

    data: bytes
    mime: str


def encode_segment(frames: np.ndarray, fps: int) -> Segmented:
    """Returns `frames`, uint8 [T, H, W, 3] with even H and W, as one segment. Raises ValueError for other
    arrays."""
    if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8 or not len(frames):
        raise ValueError(
            f"a segment is uint8 [T, H, W, 3] with T > 0, not {frames.dtype} {list(frames.shape)}"
        )
    crf = 14 if frames.shape[1] * frames.shape[2] <= _SMALL_PIXELS else 18
    sink = io.BytesIO()
    with VideoWriter(sink, fps, crf, container=_FRAGMENTED, encoder=_ALONE) as writer:
        writer.add(frames)
        mime = _mime_type(writer.header)
    return Segmented(sink.getvalue(), mime)


def _mime_type(extradata: bytes) -> str:
    """Returns the MIME type of an H.264 stream in an mp4: profile, constraints and level of its sequence
    parameter set, as in RFC 6381. Raises ValueError without one."""
    at = extradata.find(b"\x67")
    if at < 0:
        raise ValueError("the encoder gave no sequence parameter set")
    return f'video/mp4; codecs="avc1.{extradata[at + 1 : at + 4].hex()}"'


def join(segments: Sequence[bytes], target: Path | BinaryIO, fps: int, settings: Mapping[str, Any]) -> int:
    """Copies the packets of `segments` into one mp4 with `settings` in its comment; returns its frame count.

    A file at a path gets its index in front, so that it plays while it downloads; a file in memory has it at
    the end. Raises ValueError without segments.
    """
    if not segments:
        raise ValueError("there is no segment to save")
    options = {"movflags": "faststart"} if isinstance(target, Path) else {}
    destination = str(target) if isinstance(target, Path) else target
    count = 0
    with av.open(destination, "w", format="mp4", options=options) as container:
        container.metadata["comment"] = json.dumps(settings, ensure_ascii=False)
        stream = None
        for data in segments:
            with av.open(io.BytesIO(data)) as source:
                track = source.streams.video[0]
                if stream is None:
                    stream = container.add_stream_from_template(track)
                    stream.time_base = Fraction(1, fps * TICKS)
                for packet in source.demux(track):
                    if packet.size == 0:
                        continue
                    packet.stream = stream
                    packet.pts = packet.dts = count * TICKS
                    packet.duration = TICKS
                    packet.time_base = Fraction(1, fps * TICKS)
                    container.mux(packet)
                    count += 1
    return count


def is_whole(data: bytes) -> bool:
    """Returns whether every frame of a segment can be decoded."""
    try:
        return sum(1 for _ in decode(data)) > 0
    except (FFmpegError, LookupError, ValueError):  # ValueError: metadata that is not UTF-8
        return False


def read_settings(path: Path) -> dict[str, Any]:
    """Returns the settings that `join` stored in the comment; empty if there are none.

    Raises ValueError for a file that is not a video, and `safe_json.TooLong` for too long a comment.
    """
    try:
        with decoding.turn, video.open_untrusted(path) as container:
            comment = container.metadata.get("comment", "")
    except FFmpegError as error:
        raise ValueError(f"{path.name} is not a video that can be read: {error}") from error
    if len(comment.encode("utf-8", "replace")) > safe_json.MOST_BYTES:
        raise safe_json.TooLong
    try:
        found = safe_json.loads(comment)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def decode(source: Path | bytes) -> Iterator[np.ndarray]:
    """Yields the frames of a video as uint8 [H, W, 3]."""
    with av.open(str(source) if isinstance(source, Path) else io.BytesIO(source)) as container:
        for frame in container.decode(video=0):
            yield video.to_rgb(frame)
