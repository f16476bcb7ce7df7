"""Typed, recorded and drawn paths lead the camera to the same places; beside what parity.py checks."""

from __future__ import annotations

import json
import math

import pytest
import torch

from backends.camera import PathError, each_latent, follow_drawing, parse_path
from backends.worldplay.poses import Views
from tests.backends.worldplay.tiny import compound_path, walk


def test_a_recorded_trajectory_is_followed_exactly_where_keys_made_it() -> None:
    """The original's JSON, its entries out of order."""
    pixels = [[969.6969696969696, 0, 960], [0, 969.6969696969696, 540], [0, 0, 1]]
    for seed in range(6):
        expected = walk(compound_path(seed))
        entries = {str(i): {"extrinsic": pose.c2w.tolist(), "K": pixels} for i, pose in enumerate(expected)}
        text = json.dumps(dict(sorted(entries.items())))
        found = walk(each_latent(parse_path(text)))
        for pose, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(pose.c2w, wanted.c2w, atol=1e-9, rtol=0)
            assert pose.action == wanted.action


def test_a_drawn_line_is_walked() -> None:
    """Right and ahead on the map are x and z of the camera's world."""
    line = [(0.0, 0.0), (0.0, 1.2), (1.0, 2.0), (1.5, 1.0)]
    poses = walk(each_latent(follow_drawing(line)))
    for right, ahead in line:
        nearest = min(math.dist((float(p.c2w[0, 3]), float(p.c2w[2, 3])), (right, ahead)) for p in poses)
        assert nearest <= 0.081
    assert all(abs(float(p.c2w[1, 3])) < 1e-12 for p in poses)


@pytest.mark.parametrize(
    ("keys", "label"),
    [
        ((), 0), (("w",), 9), (("s",), 18), (("d",), 27), (("a",), 36), (("w", "d"), 45), (("w", "a"), 54),
        (("s", "d"), 63), (("s", "a"), 72), (("right",), 1), (("left",), 2), (("up",), 3), (("down",), 4),
        (("right", "up"), 5), (("right", "down"), 6), (("left", "up"), 7), (("left", "down"), 8),
        (("s", "a", "left", "down"), 80), (("w", "s"), 0), (("left", "right"), 0),
    ],
)  # fmt: skip
def test_labels_are_nine_times_walking_plus_turning(keys: tuple[str, ...], label: int) -> None:
    assert Views.of(walk([keys])).actions.tolist() == [0, label]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("w-3, fly-2", r"move 2 \(character 6\): 'fly' is not a key"),
        ("w--3", r"move 1 \(character 1\): cannot read"),
        ("right-0.5", "move 1"),  # zero latents to the original, which shows it as an example
        ("w-3,,a-", r"move 2 \(character 6\): cannot read"),
    ],
)
def test_a_mistake_in_a_path_is_placed(text: str, words: str) -> None:
    with pytest.raises(PathError, match=words):
        parse_path(text)
