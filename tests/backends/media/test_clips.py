"""Clips are read as a player shows them, whatever wrote them."""

from __future__ import annotations

import math
import struct
import threading
from collections.abc import Callable, Iterable
from fractions import Fraction
from itertools import accumulate
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from PIL import Image

from backends.media import clips, decoding
from backends.media.clips import ClipError, Limits

FPS = 16
SIZE = (832, 480)


def written(
    path: Path,
    frames: Iterable[np.ndarray],
    times: Callable[[int], int | None] = lambda number: number,
    unit: Fraction = Fraction(1, FPS),
    codec: str = "libx264",
    pixels: str = "yuv420p",
    given: str = "rgb24",
    setup: Callable[[Any], None] | None = None,
    **options: Any,
) -> Path:
    frames = list(frames)
    with av.open(str(path), "w", **options) as container:
        stream = container.add_stream(codec, rate=FPS)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = pixels
        if setup:
            setup(stream)
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format=given)
            frame.pts, frame.time_base = times(number), unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def grays(count: int, step: int = 10, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Each frame `step` brighter than the one before."""
    return [np.full((height, width, 3), 20 + step * number, np.uint8) for number in range(count)]


def corner(height: int = 48, width: int = 64, channels: int = 3) -> np.ndarray:
    """Red, with a white quarter at the top left."""
    picture = np.zeros((height, width, channels), np.uint8)
    picture[..., 0] = 220
    picture[: height // 2, : width // 2] = 255
    return picture


def read(path: Path, keep: int = 240, fps: int = FPS, limits: Limits | None = None) -> np.ndarray:
    return clips.read_clip(path, fps, SIZE, keep, limits)


def numbers(clip: np.ndarray, step: int = 10) -> list[int]:
    """Which frames of `grays` these are."""
    return [round((float(frame[24, 32].mean()) - 20) / step) for frame in clip]


def white_corner(frame: np.ndarray) -> tuple[bool, bool]:
    """Whether the white quarter is at the bottom, and at the right."""
    height, width = frame.shape[0] // 4, frame.shape[1] // 4
    found = [
        (bottom, right)
        for bottom in (False, True)
        for right in (False, True)
        if frame[3 * height if bottom else height, 3 * width if right else width].min() > 180
    ]
    assert len(found) == 1
    return found[0]


# The eight ways to show a picture: a, b, c, d of x' = a x + c y, y' = b x + d y; where its top left goes.
WAYS = {
    "upright": ((1, 0, 0, 1), False, (False, False)),
    "mirrored": ((-1, 0, 0, 1), False, (False, True)),
    "upside down": ((-1, 0, 0, -1), False, (True, True)),
    "upended": ((1, 0, 0, -1), False, (True, False)),
    "transposed": ((0, 1, 1, 0), True, (False, False)),
    "a quarter clockwise": ((0, 1, -1, 0), True, (False, True)),
    "transversed": ((0, -1, -1, 0), True, (True, True)),
    "a quarter back": ((0, -1, 1, 0), True, (True, False)),
}


@pytest.mark.parametrize("way", WAYS)
def test_orientation(tmp_path, way):
    (a, b, c, d), turned, where = WAYS[way]
    path = written(tmp_path / "a.mp4", [corner()] * 3)
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 44
    one = 1 << 16
    data[at : at + 36] = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    clip = read(path)
    assert clip.shape == (3, *((64, 48) if turned else (48, 64)), 3)
    assert white_corner(clip[0]) == where


def test_pixel_shape(tmp_path):
    def wide(stream: Any) -> None:
        stream.codec_context.sample_aspect_ratio = Fraction(2, 1)

    for name in ("a.mp4", "a.mkv", "a.mov", "a.avi"):
        clip = read(written(tmp_path / name, [corner()] * 2, setup=wide))
        assert clip.shape[1:] == (48, 128, 3), name


@pytest.mark.parametrize(
    ("name", "container"), [("a.mp4", "mp4"), ("a.mov", "mov"), ("a.mkv", "matroska"), ("a.ts", "mpegts")]
)
@pytest.mark.parametrize("late", [0, 1, 160])
def test_the_time_before_the_first_frame_is_no_part_of_the_clip(tmp_path, name, container, late):
    path = written(tmp_path / name, grays(16), times=lambda number: number + late, format=container)
    assert numbers(read(path)) == list(range(16))


def test_times_that_go_wrong(tmp_path):
    # AVI has no times but an order; FFmpeg guesses wrong where frames are decoded in another one.
    clip = read(written(tmp_path / "a.avi", grays(16)))
    assert sorted(set(numbers(clip))) == list(range(16)) and len(clip) <= 18
    # A broadcast whose clock is set anew, back and on again.
    for jump in (-400, 30_000):
        written(
            tmp_path / "a.ts",
            grays(16),
            times=lambda at, jump=jump: at + (1000 + jump) * (at > 7) + 500 * (at < 8),
        )
        clip = read(tmp_path / "a.ts")
        assert set(numbers(clip)) <= set(range(16)) and len(clip) >= 8


def test_variable_rates_are_resampled_by_time(tmp_path):
    """At a tick a player shows the last frame whose time has come."""
    lasting = [160, 10, 10, 20, 300, 40, 80]  # milliseconds
    starts = list(accumulate([0, *lasting]))
    for name in ("a.mp4", "a.mkv"):
        path = written(
            tmp_path / name, grays(8), times=starts.__getitem__, unit=Fraction(1, 1000),
            setup=lambda stream: setattr(stream.codec_context, "time_base", Fraction(1, 1000)),
        )  # fmt: skip
        shown = [
            max(number for number, start in enumerate(starts) if start <= 1000 * tick / FPS + 1)
            for tick in range(math.ceil(starts[-1] * FPS / 1000) + 1)
        ]
        assert numbers(read(path)) == shown, name


@pytest.mark.parametrize("fps", [8, 15, 24, 60])
def test_other_rates(tmp_path, fps):
    path = written(tmp_path / "a.mp4", grays(24, step=8))
    clip = read(path, fps=fps)
    assert abs(len(clip) - 24 * fps / FPS) <= max(1, fps / FPS)
    assert numbers(clip, 8) == [min(23, tick * FPS // fps) for tick in range(len(clip))]


def test_the_last_frame_is_part_of_a_slow_animation(tmp_path):
    pictures = [Image.new("P", (64, 48), index) for index in range(5)]
    for picture in pictures:
        picture.putpalette([value for gray in (20, 30, 40, 50, 60) for value in (gray,) * 3])
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=200)
    # At 0, 3.2, 6.4, 9.6 and 12.8 of a sixteenth.
    assert numbers(read(tmp_path / "a.gif")) == [0] * 4 + [1] * 3 + [2] * 3 + [3] * 3 + [4]


def test_the_last_frames_are_kept_and_the_others_not_decoded(tmp_path, monkeypatch):
    pictures = grays(20) * 5  # 100 frames

    def often(stream: Any) -> None:
        stream.codec_context.gop_size = 8

    path = written(tmp_path / "a.mp4", pictures)
    assert numbers(read(path, keep=10)) == list(range(10, 20))
    assert numbers(read(path, keep=30)) == [*range(10, 20), *range(20)]
    assert numbers(read(path, keep=100)) == [*range(20)] * 5
    path = written(tmp_path / "b.mp4", pictures, setup=often)
    decoded, frames = [], clips._frames
    monkeypatch.setattr(clips, "_frames", lambda *args: decoded.append(args[1]) or frames(*args))
    assert numbers(read(path, keep=10)) == list(range(10, 20))
    # Ten frames, the second before them, and what follows the key frame before that.
    assert len(decoded) <= 10 + FPS + 8 + 2


def test_cover_art_is_no_video(tmp_path):
    tagged = corner()
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic.value
        film = container.add_stream("libx264", rate=FPS)
        film.width, film.height, film.pix_fmt = 64, 48, "yuv420p"
        container.mux(cover.encode(av.VideoFrame.from_ndarray(tagged, format="rgb24")))
        for picture in grays(6):
            container.mux(film.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in (cover, film):
            container.mux(stream.encode(None))
    assert numbers(read(tmp_path / "a.mp4")) == list(range(6))
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=44_100)
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic.value
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.sample_rate = 44_100
        for stream, frame in ((sound, silence), (cover, av.VideoFrame.from_ndarray(tagged, format="rgb24"))):
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
    with pytest.raises(ClipError, match="no video in it"):
        read(tmp_path / "song.mp4")


def test_transparent_parts_are_white(tmp_path):
    picture = corner(channels=4)
    picture[..., 3] = 255
    picture[:24, :32, 3] = 0
    picture[:24, :32, :3] = 0
    for name, codec, pixels in (
        ("a.mov", "prores_ks", "yuva444p10le"),
        ("a.mov", "png", "rgba"),
        ("a.webm", "libvpx-vp9", "yuva420p"),
    ):
        path = written(tmp_path / name, [picture] * 2, codec=codec, pixels=pixels, given="rgba")
        assert white_corner(read(path)[0]) == (False, False), codec


def tagged(
    path: Path,
    rgb: tuple[int, int, int],
    size: tuple[int, int],
    matrix: int,
    trc: int,
    primaries: int,
    pixels: str = "yuv420p",
    to: Colorspace = Colorspace.ITU709,
) -> Path:
    """Two frames of one color, converted by `to` and labelled with the codes of H.273; 2 is no label."""
    turn = VideoReformatter()
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        context = stream.codec_context
        context.colorspace, context.color_trc, context.color_primaries = matrix, trc, primaries
        flat = np.full((size[1], size[0], 3), rgb, np.uint8)
        for number in range(2):
            frame = turn.reformat(
                av.VideoFrame.from_ndarray(flat, format="rgb24"),
                format=pixels,
                dst_colorspace=to,
                dst_color_range=ColorRange.MPEG,
            )
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def test_colors_without_a_label_are_guessed_by_size_as_players_do(tmp_path):
    red = (200, 40, 60)
    for size, to in (((64, 48), Colorspace.ITU601), ((1280, 64), Colorspace.ITU709)):
        pixel = read(tagged(tmp_path / "a.mp4", red, size, 2, 2, 2, to=to))[0, 20, 20].astype(int)
        assert np.abs(pixel - red).max() <= 6, size


def test_colors_of_high_dynamic_range_are_shown_on_an_ordinary_screen(tmp_path):
    def shown(signal: int, trc: int) -> np.ndarray:
        path = tagged(tmp_path / "a.mp4", (signal,) * 3, (64, 48), 9, trc, 9, "yuv420p10le")
        return read(path)[0, 20, 20].astype(int)

    for trc, white in ((16, 148), (18, 191)):  # 203 cd/m² is 58 % of PQ and 75 % of HLG
        black, gray, bright, most = (shown(signal, trc) for signal in (0, white // 2, white, 255))
        assert np.ptp(bright) <= 4 and black.max() <= 2
        assert 225 < bright.mean() < 250 and most.mean() > bright.mean() + 4
        assert 20 < gray.mean() < 140
    # A gray is the same gray in all primaries.
    path = tagged(tmp_path / "a.mp4", (120, 120, 120), (64, 48), 9, 1, 9)
    assert np.abs(read(path)[0, 20, 20].astype(int) - 120).max() <= 3


def test_files_cut_short_and_damaged_are_read_as_far_as_they_go(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (30, 48, 64, 3), np.uint8)
    whole = written(tmp_path / "a.mkv", list(noise)).read_bytes()
    (tmp_path / "a.mkv").write_bytes(whole[: len(whole) // 2])
    assert 5 < len(read(tmp_path / "a.mkv")) < 25
    damaged = bytearray(whole)
    damaged[len(whole) // 2 : len(whole) // 2 + 40] = bytes(40)
    (tmp_path / "a.mkv").write_bytes(damaged)
    assert len(read(tmp_path / "a.mkv")) > 10


def test_tags_that_are_no_unicode_do_not_matter(tmp_path):
    path = written(tmp_path / "a.mp4", grays(3))
    with av.open(str(tmp_path / "b.mkv"), "w") as container:
        container.metadata["title"] = "XXXX"
        stream = container.add_stream("libx264", rate=FPS)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(grays(1)[0], format="rgb24")))
        container.mux(stream.encode(None))
    data = (tmp_path / "b.mkv").read_bytes()
    assert b"XXXX" in data
    (tmp_path / "b.mkv").write_bytes(data.replace(b"XXXX", b"caf\xe9"))
    assert len(read(tmp_path / "b.mkv")) == 1 and len(read(path)) == 3


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (Limits(frame_pixels=64 * 40), "megapixels a frame"),
        (Limits(frames=7), "more than 7 frames"),
        (Limits(pixels=5 * 64 * 48), "more than 5 frames"),
        (Limits(file_bytes=100), "MiB; the limit is"),
    ],
)
def test_what_is_too_much_is_said_before_anything_is_decoded(tmp_path, monkeypatch, limits, words):
    path = written(tmp_path / "a.mp4", grays(8))
    monkeypatch.setattr(clips, "_frames", lambda *args: pytest.fail("decoded"))
    with pytest.raises(ClipError, match=words):
        read(path, limits=limits)


def test_very_long_pictures_are_kept_small(tmp_path):
    clip = read(written(tmp_path / "a.mp4", [np.zeros((96, 8000, 3), np.uint8)] * 2, setup=None))
    assert clip[0].size <= 3 * 4 * SIZE[0] * SIZE[1]


def test_two_at_a_time(tmp_path, monkeypatch):
    path = written(tmp_path / "a.mp4", grays(2))
    inside, most, both = 0, 0, threading.Barrier(2, timeout=30)
    lock, original = threading.Lock(), clips._read

    def counted(*args: Any) -> np.ndarray:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        both.wait()  # passes when two are here
        result = original(*args)
        both.wait()
        with lock:
            inside -= 1
        return result

    monkeypatch.setattr(clips, "_read", counted)
    threads = [threading.Thread(target=read, args=(path,)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == decoding.AT_ONCE == 2
