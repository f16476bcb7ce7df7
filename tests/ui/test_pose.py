"""The pad's texts and the map. What the pad's buttons do in a browser is in tests/browser."""

import math
import xml.etree.ElementTree as ElementTree

import pytest

from backends.camera import MAX_PATH_LATENTS, parse_path
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


@pytest.mark.parametrize(
    "path", ["", "w-1", "right-40, left-40", "a+right-144", f"w+right-{MAX_PATH_LATENTS}"]
)
def test_drawing_is_small_and_inside_its_box(path):
    drawing = pose.drawing(parse_path(path), SPEC)
    assert len(drawing) < 8_000
    root = ElementTree.fromstring(drawing)
    assert root.get("role") == "img"
    (way,) = (item for item in root if item.get("class") == "way")
    for point in (way.get("points") or "").split():
        assert all(0 <= float(number) <= 120 for number in point.split(","))
