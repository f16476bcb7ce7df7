"""The form's values as a job, or as one sentence."""

import dataclasses
import json
import math

import numpy as np
import pytest
from PIL import Image

from backends import registry
from backends.base import BackendSpec
from backends.runtime.jobs import Job, Side
from backends.validation import MAX_PROMPT, MAX_SEED
from qvg.config import BF16, PRESETS, PRQConfig
from tests.ui.fake_worker import counter, painted
from ui.form.clips import ClipError, read_clip
from ui.form.pictures import PictureError
from ui.form.run_spec import parse
from ui.form.values import QUANTIZED, Form, FormError, default_form
from ui.runs import mp4

POCKET = registry.find("pocket")


def filled(**changes) -> Form:
    asked = dataclasses.replace(default_form(POCKET), prompt="a red box", path="", seed=7)
    return dataclasses.replace(asked, **changes)


def job_of(**changes) -> Job:
    return parse(filled(**changes), POCKET).job()


def test_a_plain_job():
    job = job_of(path="w-4, right-2")
    assert job.backend_id == "pocket"
    assert job.request.prompt == "a red box"
    assert [str(move) for move in job.request.moves] == ["w-4", "right-2"]
    assert (job.request.seed, job.request.blocks) == (7, 12)
    assert job.sides == (Side("QVG INT2", PRQConfig(clusters=64), POCKET.policy),)


def test_bf16_ignores_the_codec_fields():
    (side,) = job_of(memory="bf16", clusters=None, group=-3).sides
    assert side.codec is BF16


def test_zero_window_is_everything():
    assert filled(window=0).policy(POCKET).window is None
    assert filled(window=24).policy(POCKET).window == 24


def test_what_the_form_does_not_ask_is_as_the_model_has_it():
    assert filled(every=3).policy(POCKET) == dataclasses.replace(POCKET.policy, every=3)
    worldplay = registry.find("worldplay")
    for mode in worldplay.modes:
        assert default_form(worldplay, mode=mode.id).policy(worldplay) == mode.policy


def test_zero_on_the_card_is_all_of_it():
    assert filled(on_card=0).policy(POCKET).device_bytes is None
    assert filled(on_card=3).policy(POCKET).device_bytes == 3 << 20
    assert filled(attention_bits=8).policy(POCKET).attention_bits == 8


@pytest.mark.parametrize("preset", QUANTIZED)
def test_every_preset_makes_a_job(preset):
    config = PRESETS[preset]
    values = {}
    if isinstance(config, PRQConfig):
        fields = ("clusters", "group", "stages", "iterations")
        values = {name: getattr(config, name) for name in fields}
    run_spec = parse(filled(preset=preset, **values), POCKET)
    assert run_spec.job().sides[0].codec == config
    json.dumps(run_spec.settings())


@pytest.mark.parametrize(
    ("path", "blocks"), [("w-48", 12), ("w-49", 13), ("w-1", 1), ("", 12), ("right-40, left-40", 20)]
)
def test_as_long_as_the_path(path, blocks):
    assert filled(path=path, as_path=True).length(POCKET) == blocks


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"path": "w-8, fly-3"}, "move 2 (character 6): 'fly' is not a key"),
        ({"path": "w-8,,d-1.5"}, "'d-1.5' lasts 1.5 latents; a move lasts a whole number"),
        ({"path": "w-8, " + "x" * 1_000_000}, "move 2 (character 6): 'xxxxxxxxxxxxxxxxxxxxxxxx…'"),
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
        ({"window": 2, "recent": 2}, "Cache policy: window=2"),
        ({"on_card": -2}, "Cache policy: device_bytes=-2097152"),
        ({"attention_bits": 4}, "Cache policy: attention_bits=4 must be 16, or 8."),
        ({"preset": "None"}, "There is no preset 'None'"),
        ({"preset": "x" * 1_000_000}, "There is no preset 'xxxxxxxxxxxxxxxxxxxxxxxx…'"),
    ],
)
def test_what_cannot_run_is_one_sentence(changes, words):
    with pytest.raises(FormError) as caught:
        job_of(**changes)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_bad_picture_is_one_sentence(tmp_path):
    (tmp_path / "a.png").touch()
    with pytest.raises(PictureError, match="empty"):
        job_of(picture=str(tmp_path / "a.png"))


def test_a_picture_becomes_pixels(tmp_path):
    Image.new("RGB", (64, 40), "red").save(tmp_path / "a.png")
    image = job_of(picture=str(tmp_path / "a.png")).request.image
    assert image is not None
    assert image.shape == (40, 64, 3)


@pytest.fixture
def words_only() -> BackendSpec:
    return dataclasses.replace(POCKET, inputs=frozenset({"prompt"}))


def test_what_a_model_cannot_use_is_left_out(words_only, tmp_path):
    Image.new("RGB", (64, 40)).save(tmp_path / "a.png")
    asked = filled(path="w-4000", as_path=True, picture=str(tmp_path / "a.png"))
    request = parse(asked, words_only).request
    assert request.moves == ()
    assert request.image is None
    assert request.blocks == 12


def test_settings_say_how_it_was_made():
    kept = parse(filled(path="w-4", memory="compare", sides=("BF16", "QVG INT2")), POCKET).settings()
    assert json.loads(json.dumps(kept)) == kept
    assert (kept["prompt"], kept["path"], kept["seed"]) == ("a red box", "w-4", 7)
    assert [side["codec"] for side in kept["sides"]] == ["BF16", "QVG INT2"]
    assert kept["sides"][1]["codec_settings"]["clusters"] == 64
    assert kept["sides"][0]["policy"] == {
        "every": 6, "sink": 0, "recent": 0, "window": None, "device_bytes": None, "attention_bits": 16,
        "grows": True, "fine": True,
    }  # fmt: skip


def test_a_form_is_recalled_from_what_a_file_remembers():
    asked = filled(
        path="w-4, left-2", memory="compare", sides=("BF16", "KIVI INT2"), budget=40, when_full="stop",
        blocks=7, as_path=True, preset="QVG-Pro INT2", stages=3, group=32, window=24, every=4,
    )  # fmt: skip
    kept = json.loads(json.dumps(asked.remembered()))
    assert Form.recalled(kept, POCKET) == asked
    assert Form.recalled(kept, POCKET, "a.png").picture == "a.png"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"prompt": 3, "seed": "x", "memory": "all", "sides": "BF16", "preset": "BF16", "when_full": 1},
        {"picture": "/etc/passwd", "unknown": 1, "sides": ["<b>"], "as_path": "yes", "blocks": [1]},
    ],
)
def test_what_a_file_has_wrong_is_as_at_first(values):
    recalled = Form.recalled(values, POCKET)
    expected = default_form(POCKET)
    if values.get("sides") == ["<b>"]:
        expected = dataclasses.replace(expected, sides=())
    assert recalled == expected


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sides": ("BF16",)}, "Choose 2 to 4 different presets to compare, not 1"),
        ({"sides": ("BF16", "BF16")}, "Choose 2 to 4 different presets"),
        ({"sides": ("BF16", "X")}, "There is no preset 'X'"),
        ({"budget": -1}, "The memory budget is 0 for none, or more."),
        ({"budget": 4}, "BF16 does not fit in this memory budget: a window of one block does not fit"),
    ],
)
def test_a_comparison_that_cannot_run_is_one_sentence(changes, words):
    with pytest.raises(FormError) as caught:
        job_of(**{"memory": "compare", "sides": ("BF16", "QVG INT2"), **changes})
    assert words in str(caught.value)


def test_the_preset_chosen_has_the_numbers_of_the_form_and_the_others_their_own():
    sides = job_of(memory="compare", sides=("QVG INT2", "QVG-Pro INT2"), clusters=32).sides
    assert [side.codec.clusters for side in sides] == [32, 64]


SELF_FORCING, LONGCAT = registry.find("self_forcing"), registry.find("longcat")


def test_prompts_change_at_blocks_counted_from_one():
    asked = dataclasses.replace(
        default_form(SELF_FORCING), blocks=9, changes="5: snow falls\n\n 3 : rain: more"
    )
    changes = parse(asked, SELF_FORCING).request.changes
    assert [(change.block, change.prompt) for change in changes] == [(2, "rain: more"), (4, "snow falls")]
    assert parse(filled(changes="5: snow"), POCKET).request.changes == ()
    kept = parse(asked, SELF_FORCING).settings()
    assert json.loads(json.dumps(kept))["changes"] == [[2, "rain: more"], [4, "snow falls"]]
    for line, words in (
        ("snow", "is not `block: prompt`"),
        ("x: snow", "is not `block"),
        ("4:", "is not `block"),
        ("10: snow", "blocks 2 to 9, not at 10"),
        ("1: snow", "not at 1"),
    ):
        with pytest.raises(FormError, match=words):
            parse(dataclasses.replace(asked, changes=line), SELF_FORCING)


@pytest.mark.parametrize(
    "line", ["３：snow falls", " 03 ﹕ snow falls", "3.0: snow falls", "\ufeff3\u200b:\u00a0snow falls"]
)
def test_a_prompt_change_is_read_as_pasted(line):
    asked = dataclasses.replace(default_form(SELF_FORCING), blocks=9, changes=line)
    (change,) = asked.prompt_changes(9)
    assert (change.block, change.prompt) == (2, "snow falls")


@pytest.mark.parametrize(
    "line",
    ["3.5: snow", "three: snow", "3 snow", "3:", ": snow", "9" * 100_000 + ": snow", "3" + " " * 9_999],
)
def test_what_is_no_prompt_change_is_one_sentence(line):
    asked = dataclasses.replace(default_form(SELF_FORCING), blocks=9, changes=line)
    with pytest.raises(FormError, match="is not `block: prompt`") as caught:
        asked.prompt_changes(9)
    assert len(str(caught.value)) < 200


def test_a_models_own_settings_are_told_where_they_are_not_as_usual():
    names = [option.name for option in LONGCAT.options]
    asked = dataclasses.replace(default_form(LONGCAT), options=("yes", None, "nonsense"))
    assert parse(asked, LONGCAT).request.options == ((names[0], "yes"),)
    assert Form.recalled(json.loads(json.dumps(asked.remembered())), LONGCAT).options == (
        "yes",
        None,
        "nonsense",
    )
    assert parse(filled(options=("yes",)), POCKET).request.options == ()


def test_preview_only_where_there_is_one():
    assert parse(dataclasses.replace(default_form(SELF_FORCING), preview=True), SELF_FORCING).request.preview
    assert not parse(filled(preview=True), POCKET).request.preview


@pytest.mark.parametrize("rate", [8, 16, 24])
def test_a_clip_comes_at_the_models_rate_and_size(tmp_path, rate):
    pixels = np.stack([painted(number, 240, 416) for number in range(2 * rate)])
    (tmp_path / "a.mp4").write_bytes(mp4.encode_segment(pixels, rate).data)
    asked = dataclasses.replace(default_form(SELF_FORCING), blocks=2, clip=str(tmp_path / "a.mp4"))
    clip = parse(asked, SELF_FORCING).request.clip
    # Two seconds at 16 frames each, up to the last frame's own time; never enlarged.
    assert clip.shape == (31 if rate == 8 else 32, 240, 416, 3)
    assert [counter(frame) for frame in clip[::8]] == [0, rate // 2, rate, 3 * rate // 2]
    assert parse(filled(clip=str(tmp_path / "a.mp4")), POCKET).request.clip is None


def test_a_clip_that_cannot_be_read_is_a_sentence(tmp_path):
    for content in (b"", b"<html>" * 99):
        (tmp_path / "a.mp4").write_bytes(content)
        with pytest.raises(ClipError, match="not a video"):
            read_clip(tmp_path / "a.mp4", SELF_FORCING)
    pixels = np.stack([painted(number, 1280, 2048) for number in range(2)])
    (tmp_path / "large.mp4").write_bytes(mp4.encode_segment(pixels, 16).data)
    assert read_clip(tmp_path / "large.mp4", SELF_FORCING).shape == (2, 520, 832, 3)
    with pytest.raises(FormError, match="The clip has 2 frames"):
        parse(dataclasses.replace(default_form(SELF_FORCING), clip=str(tmp_path / "large.mp4")), SELF_FORCING)
