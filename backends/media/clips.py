"""The last frames of a video file as a player shows them: upright, with square pixels, at a given rate.

A file is read twice: first its packets, which give its length and the part to decode for its end; then that
part, frame by frame, each frame scaled down before the next one is decoded.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from backends.media import decoding, hdr, video

_PREROLL_S = 1.0  # decoded before the first kept frame: some files have damaged frames after a key frame
_LONGEST_GAP_S = 10.0  # in a broadcast's timestamps; a longer gap means that the clock was reset
_TS_DISCONT = 0x0200  # AVFMT_TS_DISCONT: formats whose clock may be reset
_PICTURES = Disposition.attached_pic | Disposition.timed_thumbnails


class ClipError(ValueError):
    """Raised for a clip that cannot be used; the message is a sentence for the user."""


@dataclass(frozen=True)
class Limits:
    """Limits of a file; a larger one is refused before anything is decoded."""

    frame_pixels: int = video.MOST_PIXELS
    frames: int = 30_000  # beyond, reading takes minutes
    pixels: int = 30_000 * 1280 * 720  # of all frames together
    file_bytes: int = decoding.MOST_BYTES


def read_clip(
    path: Path, fps: int, size: tuple[int, int], keep: int, limits: Limits | None = None
) -> np.ndarray:
    """Returns at most the last `keep` frames, as uint8 [T, H, W, 3] at `fps`.

    They cover `size` (width, height), and are never enlarged. At most two pictures and clips are decoded at a
    time in a process; other calls wait. Raises ClipError.
    """
    with decoding.turn:
        try:
            return _read(path, fps, size, keep, limits or Limits())
        except ClipError:
            raise
        # FFmpeg raises many types of errors, and so do the parsers of its tags and formats; a user gets one.
        except Exception as error:
            raise ClipError(
                "This file is not a video that can be read here. Use mp4, webm or mov."
            ) from error


def _read(path: Path, fps: int, size: tuple[int, int], keep: int, limits: Limits) -> np.ndarray:
    if refusal := decoding.too_many_bytes(path, limits.file_bytes):
        raise ClipError(refusal)
    with video.open_untrusted(path, limits.frame_pixels) as container:
        survey = _survey(container, _stream_of(container), keep / fps, limits)
    last = _Last(keep)
    with video.open_untrusted(path, limits.frame_pixels) as container:
        stream = container.streams[survey.stream]
        assert isinstance(stream, VideoStream)
        look = None
        frames = _decoded(container, stream, survey, limits)
        for frame, first, end in _ticks(frames, container, stream, survey, fps):
            look = look or _Look(frame, stream, size)
            # Scaling takes most of the time, so only frames that are kept are scaled.
            if end > survey.kept_from_s * fps - 1:
                last.add(look.pixels(frame), end - first)
    if not last.count:
        raise ClipError("This video has no frames in it.")
    return last.in_order()


class _Last:
    """A ring buffer of the last `keep` frames, each in memory once."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._frames = np.empty(0, np.uint8)
        self.count = 0

    def add(self, frame: np.ndarray, times: int) -> None:
        if not self.count:
            # The system provides memory only as it is written to.
            self._frames = np.empty((self._keep, *frame.shape), np.uint8)
        for _ in range(min(times, self._keep)):
            self._frames[self.count % self._keep] = frame
            self.count += 1

    def in_order(self) -> np.ndarray:
        """Returns the frames, the oldest first. Callable once, since it reorders them in place."""
        if self.count <= self._keep:
            return self._frames[: self.count]
        oldest = self.count % self._keep
        # Rotated in place: both parts are reversed, and then the whole.
        for part in (self._frames[:oldest], self._frames[oldest:], self._frames):
            for number in range(len(part) // 2):
                part[[number, -1 - number]] = part[[-1 - number, number]]
        return self._frames


def _stream_of(container: InputContainer) -> VideoStream:
    """Returns the stream that a player shows, never cover art.

    Its codec is None if it cannot be decoded here.
    """
    readable = [
        stream
        for stream in container.streams.video
        if stream.codec_context is not None and not stream.disposition & _PICTURES
    ]
    if not readable:
        raise ClipError("This file has no video in it that can be read here. Pick another one.")
    return next((stream for stream in readable if stream.disposition & Disposition.default), readable[0])


@dataclass(frozen=True)
class _Survey:
    """Facts about a video stream, collected from its packets."""

    stream: int
    first_s: float  # time of the first frame
    kept_from_s: float  # the earliest time to keep, after `first_s`; 0 if the clock is unreliable
    skipped: int  # packets before the key frame at which decoding begins


def _survey(container: InputContainer, stream: VideoStream, keep_s: float, limits: Limits) -> _Survey:
    """Reads all packets. Raises ClipError for a file beyond the limits."""
    pixels = stream.codec_context.width * stream.codec_context.height
    if pixels > limits.frame_pixels:
        raise ClipError(f"This video has {pixels / 1e6:.0f} megapixels a frame: scale it down first.")
    most = min(limits.frames, limits.pixels // max(pixels, 1))
    shown: list[float | None] = []  # display times, by packet in decoding order
    keys: list[int] = []
    decoded_at = -math.inf
    trusted = True
    for packet in _packets(container, stream):
        if len(shown) == most:
            raise ClipError(
                f"This video has more than {most:,} frames of this size: cut it to its end first."
            )
        if packet.is_keyframe:
            keys.append(len(shown))
        if packet.pts is None or packet.time_base is None or packet.is_discard:
            shown.append(None)
            trusted = trusted and packet.is_discard
            continue
        shown.append(float(packet.pts * packet.time_base))
        if packet.dts is not None:
            trusted = trusted and packet.dts > decoded_at
            decoded_at = packet.dts
    times = [time for time in shown if time is not None]
    first_s = min(times, default=0.0)
    kept_from_s = max(times, default=0.0) - first_s - keep_s
    gaps = np.diff(np.sort(times)) if trusted else np.zeros(0)
    if not trusted or kept_from_s <= 0 or not len(gaps) or gaps.min() <= 0 or _is_jump(container, gaps.max()):
        return _Survey(stream.index, first_s, 0.0, 0)
    begin = first_s + kept_from_s - _PREROLL_S
    early = [key for key in keys if (time := shown[key]) is not None and time <= begin]
    return _Survey(stream.index, first_s, kept_from_s, max(early, default=0))


def _packets(container: InputContainer, stream: VideoStream) -> Iterator[av.Packet]:
    """Yields packets to the end of the file, even if it is cut off."""
    try:
        yield from (packet for packet in container.demux(stream) if packet.size)
    except FFmpegError:
        return


def _is_jump(container: InputContainer, gap_s: float) -> bool:
    """Returns whether the clock was reset, by the rule of FFmpeg's own programs."""
    return gap_s > _LONGEST_GAP_S and bool(container.format.flags & _TS_DISCONT)


def _decoded(
    container: InputContainer, stream: VideoStream, survey: _Survey, limits: Limits
) -> Iterator[av.VideoFrame]:
    """Yields frames from the key frame that `survey` found; damaged packets are skipped."""
    decoder = _decoder(stream)
    decoder.options = {"max_pixels": str(limits.frame_pixels)}
    for number, packet in enumerate(_packets(container, stream)):
        if number >= survey.skipped:
            yield from _frames(decoder, packet)
    yield from _frames(decoder, None)


def _decoder(stream: VideoStream) -> VideoCodecContext:
    """Returns a decoder. VP8 and VP9 use libvpx: FFmpeg's own decoders do not support transparency."""
    context = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1" and context.name in ("vp8", "vp9"):
        name = "libvpx" if context.name == "vp8" else "libvpx-vp9"
        context = av.CodecContext.create(name, "r")
        assert isinstance(context, VideoCodecContext)
    return context


def _frames(decoder: VideoCodecContext, packet: av.Packet | None) -> list[av.VideoFrame]:
    try:
        return decoder.decode(packet)
    except FFmpegError:
        return []


def _ticks(
    frames: Iterator[av.VideoFrame], container: InputContainer, stream: VideoStream, survey: _Survey, fps: int
) -> Iterator[tuple[av.VideoFrame, int, int]]:
    """Yields frames with the half-open range of ticks of `fps` at which they are shown.

    At a tick a player shows the last frame whose time has come. The very last frame is shown once, if a tick
    comes while it lasts.
    """
    rate = float(stream.average_rate or stream.guessed_rate or fps)
    if not 0.1 <= rate <= 1000:
        rate = float(fps)
    # Containers round times to their unit, often a millisecond.
    slack = fps * min(0.25 / max(fps, rate), float(stream.time_base or 0))
    shown, shown_s, shift, taken = None, 0.0, 0.0, 0
    for frame in frames:
        time = None
        if frame.pts is not None and stream.time_base is not None:
            time = float(frame.pts * stream.time_base) - survey.first_s + shift
        if shown is None:
            # The first frame there is begins at 0 at the earliest, also if frames before it are missing.
            time = max(time or 0.0, 0.0)
        elif time is None or time <= shown_s or _is_jump(container, time - shown_s):
            expected = shown_s + 1 / rate
            if time is not None and abs(time - shown_s) > 1:
                shift += expected - time
            time = expected
        tick = math.ceil(time * fps - slack)
        if shown is None:
            taken = tick
        elif tick > taken:
            yield shown, taken, tick
            taken = tick
        shown, shown_s = frame, time
    if shown is not None and (not taken or taken < (shown_s + 1 / rate) * fps - slack):
        yield shown, taken, taken + 1


class _Look:
    """The conversion of frames to pixels, configured by the first frame."""

    def __init__(self, frame: av.VideoFrame, stream: VideoStream, size: tuple[int, int]) -> None:
        self._turned, self._mirrored, self._upended = _orientation(frame)
        wide = float(stream.sample_aspect_ratio or 1)
        if not 0.1 < wide < 10:
            wide = 1.0
        width, height = frame.width * wide, float(frame.height)
        scale = _scale((height, width) if self._turned else (width, height), size)
        self._size = max(2, round(width * scale)), max(2, round(height * scale))
        context = stream.codec_context
        self._colors = int(context.color_primaries or 0), int(context.color_trc or 0)

    def pixels(self, frame: av.VideoFrame) -> np.ndarray:
        """Returns uint8 [H, W, 3], upright."""
        width, height = self._size
        if any(component.is_alpha for component in frame.format.components):
            deep = video.to_rgb(frame, format="rgba", width=width, height=height).astype(np.uint16)
            alpha = deep[..., 3:]
            picture = ((deep[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
        elif hdr.is_needed(*self._colors):
            picture = hdr.to_bt709(
                video.to_rgb(frame, format="rgb48le", width=width, height=height), *self._colors
            )
        else:
            picture = video.to_rgb(frame, width=width, height=height)
        if self._turned:
            picture = picture.transpose(1, 0, 2)
        if self._mirrored:
            picture = picture[:, ::-1]
        if self._upended:
            picture = picture[::-1]
        return np.ascontiguousarray(picture)


def _orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Returns whether to transpose, then to flip columns, then rows; for the nearest right angle."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None or len(bytes(matrix)) != 36:
        return False, False, False
    # x' = a x + c y and y' = b x + d y, in 16.16 fixed point.
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix))
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, a < 0, d < 0
    return True, c < 0, b < 0


def _scale(shown: tuple[float, float], size: tuple[int, int]) -> float:
    """Returns the scale that covers `size` (both width, height); less for very long pictures, at most 1."""
    width, height = shown
    covering = max(size[0] / width, size[1] / height)
    return min(1.0, covering, math.sqrt(4 * size[0] * size[1] / (width * height)))
