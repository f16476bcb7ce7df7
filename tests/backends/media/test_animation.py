"""Animated pictures: frames, duration and colors of GIF and WebP."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageSequence

from backends.media import animation


def fades(count: int = 5) -> list[np.ndarray]:
    """Gradients, each of other colors: no 256 colors serve them all."""
    y, x = np.mgrid[:48, :64]
    return [
        np.stack([x * 4 * (at % 2), y * 5, np.full_like(x, 50 * at)], -1).astype(np.uint8)
        for at in range(count)
    ]


@pytest.mark.parametrize(("suffix", "off"), [(".gif", 8), (".webp", 12)])
@pytest.mark.parametrize("fps", [8, 12.5, 2])
def test_frames_come_back(tmp_path: Path, suffix: str, off: float, fps: float):
    animation.write(tmp_path / f"a{suffix}", fades(), fps)
    with Image.open(tmp_path / f"a{suffix}") as opened:
        assert opened.info["loop"] == 0
        found = [(np.asarray(frame.convert("RGB")), frame.info) for frame in ImageSequence.Iterator(opened)]
    assert len(found) == 5
    for (frame, info), original in zip(found, fades(), strict=True):
        assert abs(frame.astype(float) - original).mean() < off
        if suffix == ".gif":
            assert abs(info["duration"] - 1000 / fps) < 10


def test_what_cannot_be_written_is_an_error(tmp_path: Path):
    with pytest.raises(ValueError, match="no frame"):
        animation.write(tmp_path / "a.gif", [], 12)
    with pytest.raises(ValueError, match=r"not '\.png'"):
        animation.write(tmp_path / "a.png", fades(), 12)
    with pytest.raises(OSError, match="absent"):
        animation.write(tmp_path / "absent" / "a.gif", fades(), 12)
