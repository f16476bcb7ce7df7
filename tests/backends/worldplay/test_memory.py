"""Which blocks are read, beside what parity.py checks against the original."""

from __future__ import annotations

import pytest
import torch

from backends.camera import each_latent, parse_path
from backends.worldplay.memory import FieldOfView, Memory, choose
from backends.worldplay.poses import Views
from tests.backends.worldplay.tiny import CHUNK, walk


@pytest.fixture(scope="module")
def sight() -> FieldOfView:
    return FieldOfView()


def cameras(path: str, blocks: int) -> torch.Tensor:
    poses = walk(each_latent(parse_path(path)))
    return Views.of((poses + poses[-1:] * CHUNK * blocks)[: CHUNK * blocks]).w2c


def test_everything_is_read_while_there_is_little(sight: FieldOfView) -> None:
    w2c = cameras("w-40", 5)
    assert choose(w2c[:4], 0, [], 4, 1, sight) == ()
    assert choose(w2c, 4, range(4), 4, 1, sight) == (0, 1, 2, 3)
    assert choose(w2c, 4, range(4), None, 1, sight) == (0, 1, 2, 3)


def test_the_place_returned_to_is_chosen(sight: FieldOfView) -> None:
    """Twenty latents to the right and back: the first block saw it, whatever was held out of sight since."""
    w2c = cameras("right-20, left-20", 10)
    assert choose(w2c, 9, range(9), 4, 1, sight) == (0, 6, 7, 8)
    assert choose(w2c, 9, range(9), 4, 2, sight) == (0, 1, 7, 8)
    # Once evicted it cannot be.
    assert choose(w2c, 9, range(2, 9), 4, 1, sight)[0] != 0


def test_without_retrieval_the_newest_are_read(sight: FieldOfView) -> None:
    assert choose(cameras("right-20, left-20", 10), 9, range(9), 3, 0, sight) == (6, 7, 8)


def test_of_equals_the_oldest_is_chosen(sight: FieldOfView) -> None:
    assert choose(cameras("", 8), 7, range(7), 3, 1, sight) == (0, 5, 6)


def test_overlap_is_whole_with_oneself_and_nothing_behind(sight: FieldOfView) -> None:
    here, behind = cameras("", 1)[0], cameras("right-60", 16)[60]
    assert sight.overlap(here, torch.stack([here, behind])).tolist() == [1.0, 0.0]


@pytest.mark.parametrize(("blocks", "retrieved"), [(1, 1), (4, 4), (4, -1)])
def test_a_memory_without_the_newest_block_is_refused(blocks: int, retrieved: int) -> None:
    with pytest.raises(ValueError, match="the newest block is always read"):
        Memory(blocks=blocks, retrieved=retrieved)
