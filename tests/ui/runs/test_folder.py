"""A run's files, and a disk that is full."""

import errno
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.ui.fake_worker import painted
from ui.runs import mp4
from ui.runs.folder import RunFolder, read_record, slug, video_name

SEGMENTS = [
    mp4.encode_segment(np.stack([painted(4 * block + at, 32, 224) for at in range(4)]), 12).data
    for block in range(3)
]


def test_nothing_is_made_before_there_is_something_to_write(tmp_path):
    RunFolder.new(tmp_path / "outputs", "id")
    assert not (tmp_path / "outputs").exists()


def test_segments_are_there_until_they_are_removed(tmp_path):
    folder = RunFolder.new(tmp_path, "id", linger_s=0)
    kept = [folder.keep(str(index), data) for index, data in enumerate(SEGMENTS)]
    assert [file.read_bytes() for file in kept if file] == SEGMENTS
    final = folder.finish(SEGMENTS, "video", 12, {"seed": 1})
    folder.remove_segments()
    assert final is not None
    assert [file.name for file in folder.path.iterdir()] == ["video.mp4"]
    assert mp4.read_settings(final) == {"seed": 1}
    assert not folder.problem


def test_a_slow_viewer_still_finds_the_segments(tmp_path):
    folder = RunFolder.new(tmp_path, "id", linger_s=30)
    kept = folder.keep("0", SEGMENTS[0])
    folder.finish(SEGMENTS[:1], "video", 12, {})
    folder.remove_segments()
    assert kept is not None
    assert kept.exists()


def test_a_record_is_read_back_and_an_unreadable_one_is_none(tmp_path):
    folder = RunFolder.new(tmp_path, "id")
    folder.record({"prompt": "雪"})
    assert read_record(folder.path) == {"prompt": "雪"}
    assert [file.name for file in folder.path.iterdir()] == ["run.json"]
    for content in ("", "[1]", "{", "[" * 100_000):
        (folder.path / "run.json").write_text(content)
        assert read_record(folder.path) is None
    assert read_record(tmp_path / "nowhere") is None


def test_pictures_beside_a_run(tmp_path):
    folder, pixels = RunFolder.new(tmp_path, "id"), painted(5, 480, 832)
    kept = folder.keep_picture(pixels)
    folder.keep_thumbnail(pixels)
    assert kept is not None
    assert np.array_equal(np.asarray(Image.open(kept)), pixels)
    assert max(Image.open(folder.path / "thumbnail.jpg").size) == 320
    folder.delete()
    assert list(tmp_path.iterdir()) == []
    folder.delete()


def test_a_hostile_id_stays_inside(tmp_path):
    assert RunFolder.new(tmp_path, "../../etc/x").path.parent == tmp_path.resolve()


def full(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_at_a_segment(tmp_path, monkeypatch):
    folder = RunFolder.new(tmp_path, "id")
    monkeypatch.setattr(Path, "write_bytes", full)
    assert folder.keep("0", SEGMENTS[0]) is None
    assert "the disk is full" in folder.problem
    monkeypatch.undo()
    assert folder.keep("1", SEGMENTS[1]) is None
    assert folder.finish(SEGMENTS, "video", 12, {}) is None


def test_a_full_disk_at_the_end(tmp_path, monkeypatch):
    folder = RunFolder.new(tmp_path, "id", linger_s=0)
    kept = folder.keep("0", SEGMENTS[0])
    monkeypatch.setattr(mp4, "join", full)
    assert folder.finish(SEGMENTS[:1], "video", 12, {}) is None
    assert "the disk is full" in folder.problem
    assert list(folder.path.iterdir()) == [kept]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "outputs").write_text("a file")
    folder = RunFolder.new(tmp_path / "outputs", "id")
    assert folder.keep("0", SEGMENTS[0]) is None
    assert "could not be saved" in folder.problem


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("a red box", "pocket-world-a-red-box-seed-7"),
        ("", "pocket-world-seed-7"),
        ("../../etc/passwd\0", "pocket-world-etc-passwd-seed-7"),
        ("雪の中", "pocket-world-seed-7"),
    ],
)
def test_names_are_safe(prompt, name):
    assert video_name("Pocket World", prompt, 7) == name


def test_names_are_short():
    assert len(video_name("Pocket World", "x" * 2000, 2**31 - 1)) < 90
    assert slug("QVG-Pro INT2") == "qvg-pro-int2"
    assert json.dumps(slug("<b>")) == '"b"'
