"""All that is written is BT.709 in limited range, says so, and has the colors it was given."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from backends.longcat.cli import FragmentedVideoWriter
from backends.media.video import VideoWriter
from ui.runs import export, mp4

RED = (200, 40, 60)
STILL = np.full((4, 480, 832, 3), RED, np.uint8)


def segment(path: Path) -> None:
    path.write_bytes(mp4.encode_segment(STILL, 12).data)


def joined(path: Path) -> None:
    mp4.join([mp4.encode_segment(STILL, 12).data] * 2, path, 12, {})


def exported(path: Path) -> None:
    joined(path.with_name("side.mp4"))
    sides = [export.Side(path.with_name("side.mp4"), name, "") for name in "ab"]
    export.write_mp4(sides, path, 12, {"seed": 1})


def filmed(path: Path) -> None:
    with FragmentedVideoWriter(path) as film:
        film.add(STILL)


@pytest.mark.parametrize("write", [segment, joined, exported, filmed])
def test_every_writer_makes_tagged_bt709(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "a.mp4")
    with av.open(str(tmp_path / "a.mp4")) as container:
        context = container.streams.video[0].codec_context
        tags = (context.colorspace, context.color_primaries, context.color_trc, context.color_range)
        frame = next(container.decode(video=0))
    assert [int(tag) for tag in tags] == [1, 1, 1, 1]
    planes = [
        np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)[plane.height - 20, 20]
        for plane in frame.planes
    ]
    y, cb, cr = (float(planes[0]) - 16) / 219, (float(planes[1]) - 128) / 224, (float(planes[2]) - 128) / 224
    green = (y - 0.2126 * (y + 1.5748 * cr) - 0.0722 * (y + 1.8556 * cb)) / 0.7152
    assert np.abs(255 * np.array([y + 1.5748 * cr, green, y + 1.8556 * cb]) - RED).max() <= 4


def test_a_file_without_a_frame_can_be_closed() -> None:
    with VideoWriter(io.BytesIO(), 12, 18, container={}) as writer:
        pass
    assert writer.frames == 0


def test_odd_sides_are_refused() -> None:
    with (
        pytest.raises(ValueError, match="even sides, not 33x48"),
        VideoWriter(io.BytesIO(), 12, 18, container={}) as writer,
    ):
        writer.add(np.zeros((1, 48, 33, 3), np.uint8))
