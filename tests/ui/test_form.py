"""The form's values as a job, or as one sentence."""

import dataclasses
import json
import math

import pytest
from PIL import Image

from backends import registry
from backends.base import BackendSpec
from backends.check import MAX_PROMPT, MAX_SEED
from qvg.config import BF16, PRESETS, PRQConfig
from ui import form
from ui.form import Form, FormError
from ui.pictures import PictureError

POCKET = registry.find("pocket")


def filled(**changes) -> Form:
    values = {
        "prompt": "a red box", "path": "", "quantised": True, "preset": form.QUANTISED[0],
        "seed": 7, "blocks": 12, "as_path": False, "clusters": 64, "group": 64, "stages": 1, "iterations": 2,
        "every": 6, "sink": 0, "recent": 0, "window": 0,
    }  # fmt: skip
    return Form(**{**values, **changes})


def test_a_plain_job():
    job = filled(path="w-4, right-2").job(POCKET)
    assert job.backend_id == "pocket"
    assert job.request.prompt == "a red box"
    assert [str(move) for move in job.request.moves] == ["w-4", "right-2"]
    assert (job.request.seed, job.request.blocks) == (7, 12)
    assert job.codec == PRQConfig(clusters=64)
    assert job.policy == POCKET.policy


def test_bf16_ignores_the_codec_fields():
    assert filled(quantised=False, clusters=None, group=-3).job(POCKET).codec is BF16


def test_zero_window_is_everything():
    assert filled(window=0).policy().window is None
    assert filled(window=24).policy().window == 24


@pytest.mark.parametrize("preset", form.QUANTISED)
def test_every_preset_makes_a_job(preset):
    config = PRESETS[preset]
    values = {}
    if isinstance(config, PRQConfig):
        fields = ("clusters", "group", "stages", "iterations")
        values = {name: getattr(config, name) for name in fields}
    job = filled(preset=preset, **values).job(POCKET)
    assert job.codec == config
    json.dumps(form.settings(job, POCKET, preset))


@pytest.mark.parametrize(
    ("path", "blocks"), [("w-48", 12), ("w-49", 13), ("w-1", 1), ("", 12), ("right-40, left-40", 20)]
)
def test_as_long_as_the_path(path, blocks):
    assert filled(path=path, as_path=True).length(POCKET) == blocks


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"path": "w-8, fly-3"}, "move 2 (character 6): 'fly' is not a key"),
        ({"path": "w-8,,d-1"}, "nothing between the commas"),
        ({"path": "w-9999999999"}, "the limit is 4,096"),
        ({"path": "w-4000", "as_path": True}, "makes 1 to 120 blocks, not 1,000"),
        ({"blocks": 0}, "makes 1 to 120 blocks, not 0"),
        ({"blocks": 10**9}, "not 1,000,000,000"),
        ({"blocks": 1e30}, "The length is at most"),
        ({"blocks": None}, "The length is empty"),
        ({"blocks": math.nan}, "The length is empty"),
        ({"blocks": 2.5}, "whole number"),
        ({"seed": None}, "The seed is empty"),
        ({"seed": -1}, "A seed lies between 0 and"),
        ({"seed": MAX_SEED + 1}, "A seed lies between 0 and"),
        ({"prompt": "x" * 100_000}, f"100,000 characters; shorten it to {MAX_PROMPT:,}"),
        ({"clusters": 257}, "Codec: "),
        ({"clusters": None}, "Clusters is empty"),
        ({"group": 48}, "Codec: "),
        ({"stages": 10**6}, "Stages is at most 16"),
        ({"iterations": 10**6}, "Iterations is at most 64"),
        ({"stages": 0}, "Codec: stages=0"),
        ({"iterations": -1}, "Codec: iterations=-1"),
        ({"every": 0}, "Cache policy: every=0"),
        ({"sink": -1}, "Cache policy: sink=-1"),
        ({"window": 2}, "Cache policy: window=2"),
        ({"preset": "None"}, "There is no preset 'None'"),
    ],
)
def test_what_cannot_run_is_one_sentence(changes, words):
    with pytest.raises(FormError) as caught:
        filled(**changes).job(POCKET)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_picture_is_one_sentence(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(PictureError, match="empty"):
        filled(picture=str(tmp_path / "a.png")).job(POCKET)


def test_a_picture_becomes_pixels(tmp_path):
    Image.new("RGB", (64, 40), "red").save(tmp_path / "a.png")
    image = filled(picture=str(tmp_path / "a.png")).job(POCKET).request.image
    assert image is not None
    assert image.shape == (40, 64, 3)


@pytest.fixture
def words_only() -> BackendSpec:
    return dataclasses.replace(POCKET, inputs=frozenset({"prompt"}))


def test_what_a_model_cannot_use_is_left_out(words_only, tmp_path):
    Image.new("RGB", (64, 40)).save(tmp_path / "a.png")
    asked = filled(path="w-4000", as_path=True, picture=str(tmp_path / "a.png"))
    request = asked.job(words_only).request
    assert request.moves == ()
    assert request.image is None
    assert request.blocks == 12


def test_settings_say_how_it_was_made():
    job = filled(path="w-4").job(POCKET)
    kept = form.settings(job, POCKET, "QVG INT2")
    assert json.loads(json.dumps(kept)) == kept
    assert kept["prompt"] == "a red box"
    assert kept["path"] == "w-4"
    assert kept["seed"] == 7
    assert kept["codec"] == "QVG INT2"
    assert kept["codec_settings"]["clusters"] == 64
    assert kept["policy"] == {"every": 6, "sink": 0, "recent": 0, "window": None}


def test_bf16_is_named_so():
    assert form.settings(filled(quantised=False).job(POCKET), POCKET, "QVG INT2")["codec"] == "BF16"
