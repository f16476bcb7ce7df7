"""Where a path leads, and paths drawn, read and written. The map is in tests/browser/test_camera.py."""

import math

import pytest

from backends.camera import parse_path
from backends.pocket.spec import SPEC
from ui import pose

WALK = SPEC.metres_per_latent


@pytest.mark.parametrize("key", pose.PAD, ids=lambda key: key.key)
def test_every_pad_key_is_a_move(key):
    (move,) = parse_path(f"{key.key}-3")
    assert str(move) == f"{key.key}-3"
    assert key.name


@pytest.mark.parametrize(("name", "path"), pose.PRESETS)
def test_every_preset_is_a_path(name, path):
    assert name
    assert parse_path(path)


def test_walking_goes_up_the_map():
    end = pose.trace(parse_path("w-10"), SPEC)[-1]
    assert end.x == pytest.approx(0)
    assert end.y == pytest.approx(10 * WALK)
    assert end.heading == 0


def test_turning_right_then_walking_goes_right():
    end = pose.trace(parse_path("right-36, w-10"), SPEC)[-1]
    assert math.degrees(end.heading) == pytest.approx(90)
    assert end.x == pytest.approx(10 * WALK)
    assert end.y == pytest.approx(0, abs=1e-9)


def test_stepping_aside_keeps_the_view():
    end = pose.trace(parse_path("d-5"), SPEC)[-1]
    assert (end.x, end.y, end.heading) == pytest.approx((5 * WALK, 0, 0))


@pytest.mark.parametrize("path", ["right-40, left-40", "w-24, s-24", "a+right-144"])
def test_paths_that_come_back(path):
    end = pose.trace(parse_path(path), SPEC)[-1]
    assert (end.x, end.y) == pytest.approx((0, 0), abs=1e-9)
    assert math.cos(end.heading) == pytest.approx(1)


def test_a_line_drawn_becomes_moves_at_the_models_own_scale():
    drawn = {"points": [[0, 0], [0, 10 * WALK]], "model": "pocket"}
    assert pose.follow(drawn) == {"moves": [{"keys": ["w"], "n": 9}]}
    other = pose.follow({**drawn, "model": "worldplay"})["moves"]
    assert other[0]["n"] > 9, "its steps are shorter"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"points": [[0, 0]], "model": "pocket"}, "two points or more"),
        ({"points": "x", "model": "pocket"}, "two points or more"),
        ({"points": [[0, 0], [1, float("nan")]], "model": "pocket"}, "two points or more"),
        ({"points": [[0, 0], [1]], "model": "pocket"}, "values to unpack"),
        ({"points": [[0, 0], [0, 1e6]], "model": "pocket"}, "more than 4,096 latents"),
        ({"points": [[0, 0], [0, 1]], "model": "gone"}, "there is no generator"),
        ({}, "there is no generator"),
    ],
)
def test_a_line_that_is_none_is_a_sentence(asked, words):
    assert words in pose.follow(asked)["error"]


@pytest.mark.parametrize("model", ["pocket", "worldplay"])
@pytest.mark.parametrize("kind", ["moves", "trajectory"])
def test_what_is_written_is_read_back(model, kind):
    path = "w-8, right-4, w+left-2, still-3"
    written = pose.write({"path": path, "kind": kind, "model": model})["text"]
    assert pose.read({"text": written, "model": model}) == {"path": path}


def test_files_that_cannot_be_read_or_written_are_sentences():
    assert "move 1 (character 1)" in pose.read({"text": "fly-2", "model": "pocket"})["error"]
    assert "too long" in pose.read({"text": "w" * (pose.MAX_TEXT + 1), "model": "pocket"})["error"]
    assert "there is no generator" in pose.read({"text": "w-1"})["error"]
    assert "'fly' is not a key" in pose.write({"path": "fly-2", "kind": "moves", "model": "pocket"})["error"]
