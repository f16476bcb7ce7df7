"""Where a path leads, and paths drawn, read and written. The map is in tests/browser/test_camera.py."""

import json
import math
import re
import shutil
import subprocess
import unicodedata

import pytest

from backends.camera import KEYS, MAX_TEXT, parse_path, trace
from backends.plain_text import PLAIN
from backends.pocket.spec import SPEC
from tests.backends.test_camera import PASTED
from tests.soak.growth import RUNS
from ui.components.base import HERE, script
from ui.components.camera import PAD
from ui.events import camera
from ui.form.camera_path import CONSTANTS, PRESETS

PATH_SCRIPT = script(["camera_path"], CONSTANTS)
WALK = SPEC.metres_per_latent


@pytest.mark.parametrize("key", PAD, ids=lambda key: key.key)
def test_every_pad_key_is_a_move(key):
    (move,) = parse_path(f"{key.key}-3")
    assert str(move) == f"{key.key}-3"
    assert key.name


@pytest.mark.parametrize(("name", "path"), PRESETS)
def test_every_preset_is_a_path(name, path):
    assert name
    assert parse_path(path)


def test_walking_goes_up_the_map():
    end = trace(parse_path("w-10"), SPEC.metres_per_latent, SPEC.degrees_per_latent)[-1]
    assert end.x == pytest.approx(0)
    assert end.y == pytest.approx(10 * WALK)
    assert end.heading == 0


def test_turning_right_then_walking_goes_right():
    end = trace(parse_path("right-36, w-10"), SPEC.metres_per_latent, SPEC.degrees_per_latent)[-1]
    assert math.degrees(end.heading) == pytest.approx(90)
    assert end.x == pytest.approx(10 * WALK)
    assert end.y == pytest.approx(0, abs=1e-9)


def test_stepping_aside_keeps_the_view():
    end = trace(parse_path("d-5"), SPEC.metres_per_latent, SPEC.degrees_per_latent)[-1]
    assert (end.x, end.y, end.heading) == pytest.approx((5 * WALK, 0, 0))


@pytest.mark.parametrize("path", ["right-40, left-40", "w-24, s-24", "a+right-144"])
def test_paths_that_come_back(path):
    end = trace(parse_path(path), SPEC.metres_per_latent, SPEC.degrees_per_latent)[-1]
    assert (end.x, end.y) == pytest.approx((0, 0), abs=1e-9)
    assert math.cos(end.heading) == pytest.approx(1)


def test_a_line_drawn_becomes_moves_at_the_models_own_scale():
    drawn = {"points": [[0, 0], [0, 10 * WALK]], "model": "pocket"}
    assert camera.follow(drawn) == {"moves": [{"keys": ["w"], "n": 9}]}
    other = camera.follow({**drawn, "model": "worldplay"})["moves"]
    assert other[0]["n"] > 9, "its steps are shorter"


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"points": [[0, 0]], "model": "pocket"}, "two points or more"),
        ({"points": "x", "model": "pocket"}, "two points or more"),
        ({"points": [[0, 0], [1, float("nan")]], "model": "pocket"}, "two points or more"),
        ({"points": [[0, 0], [1]], "model": "pocket"}, "two points or more"),
        ({"points": [[0, 0], ["9" * 100_000, "x" * 100_000]], "model": "pocket"}, "two points or more"),
        ({"points": [[0, 0], [0, 1e6]], "model": "pocket"}, "more than 4,096 latents"),
        ({"points": [[0, 0], [0, 1]], "model": "gone"}, "there is no generator"),
        ({}, "there is no generator"),
    ],
)
def test_a_line_that_is_none_is_a_sentence(asked, words):
    assert words in camera.follow(asked)["error"]


@pytest.mark.parametrize("model", ["pocket", "worldplay"])
@pytest.mark.parametrize("kind", ["moves", "trajectory"])
def test_what_is_written_is_read_back(model, kind):
    path = "w-8, right-4, w+left-2, still-3"
    written = camera.write({"path": path, "kind": kind, "model": model})["text"]
    assert camera.read({"text": written, "model": model}) == {"path": path}


def test_files_that_cannot_be_read_or_written_are_sentences():
    assert "move 1 (character 1)" in camera.read({"text": "fly-2", "model": "pocket"})["error"]
    assert "too long" in camera.read({"text": "w" * (MAX_TEXT + 1), "model": "pocket"})["error"]
    assert "there is no generator" in camera.read({"text": "w-1"})["error"]
    assert (
        "'fly' is not a key" in camera.write({"path": "fly-2", "kind": "moves", "model": "pocket"})["error"]
    )


# The exponent of parsePath's time between 10,000 and 100,000 characters, 0 where that takes under 20 ms,
# and a square seconds. What is steep is measured again: a busy machine is slow at times, a parser always.
STEEP_IN_A_BROWSER = 1.85  # by the clock, not by the time of the CPU
STEEPNESS = """
function milliseconds([beginning, repeated, end], length) {
  const text = beginning + repeated.repeat(length / repeated.length) + end;
  const once = () => { const began = performance.now(); parsePath(text); return performance.now() - began; };
  return Math.min(once(), once());
}
function steepness(run, tries = 5) {
  const [short, long] = [10_000, 100_000].map((length) => milliseconds(run, length));
  const steep = long < 20 ? 0 : Math.log10(long / Math.max(short, 0.1));
  return steep > MOST_STEEP && tries > 1 ? Math.min(steep, steepness(run, tries - 1)) : steep;
}
"""


def test_the_page_reads_text_as_pasted_as_python_does(tmp_path):
    """In node where there is one; tests/browser/test_camera.py does so in a browser."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")
    program = tmp_path / "read.js"
    program.write_text(
        f"{PATH_SCRIPT}\nconst texts = {json.dumps([row['text'] for row in PASTED])};\n"
        f"const runs = {json.dumps(RUNS)}, MOST_STEEP = {STEEP_IN_A_BROWSER};\n{STEEPNESS}\n"
        "const read = texts.map(parsePath).map((moves) => moves && formatPath(moves));\n"
        "console.log(JSON.stringify([read, runs.map(steepness)]));",
        encoding="utf-8",
    )
    ran = subprocess.run([node, str(program)], capture_output=True, text=True, check=True)
    read, steepness = json.loads(ran.stdout)
    assert read == [row.get("path") for row in PASTED]
    assert {
        run: steep for run, steep in zip(RUNS, steepness, strict=True) if steep > STEEP_IN_A_BROWSER
    } == {}


def test_every_key_of_a_keyboard_is_a_key_of_the_camera_wherever_it_is_pressed():
    found = [
        dict(re.findall(r'(Key[A-Z]|Arrow\w+): "(\w+)"', (HERE / name).read_text()))
        for name in ("camera_map.js", "steering.js")
    ]
    assert found[0] == found[1]
    assert {*found[0].values()} == {*KEYS}


def test_signs_stand_for_one_plain_character_and_digits_for_their_value():
    assert all(len(sign) == 1 and len(plain) <= 1 and plain.isascii() for sign, plain in PLAIN.items())
    assert not any(sign.isascii() for sign in PLAIN if sign not in "\t\r\v\f")
    for sign in map(chr, range(0x80, 0x10000)):
        # Scripts that came after Unicode 13 are not in every Python's table.
        value = unicodedata.decimal(sign, None)
        assert value is None or PLAIN[sign] == str(value)
        assert unicodedata.category(sign) != "Zs" or PLAIN[sign] == " "
