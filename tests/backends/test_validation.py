"""Requests a generator cannot take are refused in a sentence, before anything is loaded."""

import dataclasses

import numpy as np
import pytest

from backends import registry
from backends.base import PromptChange, Request
from backends.camera import CameraMove
from backends.validation import MAX_PROMPT, MAX_SEED, check
from tests.fake_backend import SPEC

PICTURE = np.zeros((64, 48, 3), np.uint8)


@pytest.mark.parametrize(
    "request_",
    [
        Request(),
        Request(prompt="x" * MAX_PROMPT, seed=MAX_SEED, blocks=SPEC.max_blocks),
        Request(image=PICTURE, moves=(CameraMove(("w",), 4096),), blocks=1),
    ],
)
def test_takes(request_):
    check(request_, SPEC)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(blocks=0), "1 to 400 blocks, not 0"),
        (Request(blocks=401), "not 401"),
        (Request(mode="best"), "no mode 'best': leave it empty"),
        (Request(seed=-1), "seed lies between 0 and 2,147,483,647"),
        (Request(seed=MAX_SEED + 1), "2,147,483,648"),
        (Request(prompt="x" * (MAX_PROMPT + 1)), "2,001 characters; shorten it to 2,000"),
        (Request(moves=(CameraMove(("w",), 4096), CameraMove())), "4,097 latents"),
        (Request(image=PICTURE[..., 0]), r"uint8 \[64, 48\]"),
        (Request(image=PICTURE.astype(np.float32)), "float32"),
        (Request(image=np.zeros((64, 48, 4), np.uint8)), r"\[64, 48, 4\]"),
        (Request(image=PICTURE[:8]), "48 x 8 pixels"),
        (Request(image=np.zeros((16, 9000, 3), np.uint8)), "9000 x 16"),
    ],
)
def test_refuses(request_, words):
    with pytest.raises(ValueError, match=words):
        check(request_, SPEC)


@pytest.mark.parametrize(
    ("request_", "words"),
    [(Request(image=PICTURE), "takes no picture"), (Request(moves=(CameraMove(),)), "no camera to steer")],
)
def test_refuses_what_this_generator_has_no_input_for(request_, words):
    with pytest.raises(ValueError, match=words):
        check(request_, dataclasses.replace(SPEC, inputs=frozenset({"prompt"})))


SELF_FORCING = registry.find("self_forcing")
CLIP = np.zeros((33, 48, 64, 3), np.uint8)


def changes(*blocks):
    return tuple(PromptChange(block, "snow") for block in blocks)


@pytest.mark.parametrize(
    "request_",
    [
        Request(clip=CLIP, blocks=338),
        Request(clip=CLIP[:9], blocks=1),
        Request(changes=changes(1, 2, 6), blocks=7),
        Request(preview=True),
    ],
)
def test_takes_what_self_forcing_can(request_):
    check(request_, SELF_FORCING)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(clip=CLIP[:8]), "clip has 8 frames; 9 make the first block"),
        (Request(clip=CLIP, blocks=339), "clip and 339 blocks are 342; Self-Forcing makes 341 at most"),
        (Request(clip=np.zeros((601, 16, 16, 3), np.uint8)), "601 frames; give its last 600"),
        (Request(clip=CLIP[0]), r"uint8 \[48, 64, 3\]"),
        (Request(clip=CLIP.astype(np.float32)), "float32"),
        (Request(clip=CLIP[:, :8]), "The clip is 64 x 8 pixels"),
        (Request(changes=changes(0)), "changes at blocks 0; it can at blocks 1 to 11"),
        (Request(changes=changes(12)), "changes at blocks 12"),
        (Request(changes=changes(4, 3)), "blocks 4, 3; .* in order"),
        (Request(changes=changes(4, 4)), "once at each"),
        (Request(changes=(PromptChange(3, "x" * 2001),)), "2,001 characters"),
    ],
)
def test_refuses_what_self_forcing_cannot(request_, words):
    with pytest.raises(ValueError, match=words):
        check(request_, SELF_FORCING)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request(clip=CLIP), "cannot go on from a clip"),
        (Request(changes=changes(1)), "keeps one prompt"),
        (Request(preview=True), "no preview decoder"),
    ],
)
def test_refuses_what_another_generator_could(request_, words):
    with pytest.raises(ValueError, match=words):
        check(request_, SPEC)


@pytest.mark.parametrize(("frames", "blocks"), [(0, 0), (8, 0), (9, 1), (20, 1), (21, 2), (81, 7)])
def test_a_clip_is_cut_to_whole_blocks(frames, blocks):
    assert SELF_FORCING.clip_blocks(frames) == blocks
