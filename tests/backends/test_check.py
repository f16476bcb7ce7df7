"""Requests a generator cannot take are refused in a sentence, before anything is loaded."""

import dataclasses

import numpy as np
import pytest

from backends.base import Request
from backends.camera import CameraMove
from backends.check import MAX_PROMPT, MAX_SEED, check
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
