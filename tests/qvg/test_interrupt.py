"""Long encodings can be left between rounds."""

import threading

import pytest
import torch

from qvg.codecs.prq import PRQCodec
from qvg.config import PRQConfig
from qvg.ops.interrupt import checkpoint, interruptible


class EnoughError(Exception):
    pass


def encode(config: PRQConfig) -> None:
    x = torch.randn(1, 1, 96, 64, generator=torch.Generator().manual_seed(0))
    PRQCodec(config).encode(x)


@pytest.mark.parametrize(("stages", "iterations"), [(1, 1), (1, 64), (16, 1), (16, 8)])
def test_it_is_asked_at_every_stage_and_round(stages, iterations):
    asked = []
    with interruptible(lambda: asked.append(1)):
        encode(PRQConfig(stages=stages, iterations=iterations, clusters=16))
    assert len(asked) >= stages * iterations
    encode(PRQConfig(clusters=16))
    assert len(asked) <= 2 * stages * iterations, "nobody asks outside"


def test_what_it_raises_ends_the_encoding():
    left = iter(range(5))

    def check() -> None:
        if next(left, None) is None:
            raise EnoughError

    with pytest.raises(EnoughError), interruptible(check):
        encode(PRQConfig(stages=16, iterations=64, clusters=16))
    encode(PRQConfig(clusters=16))


def test_one_computation_is_not_ended_for_another():
    def end() -> None:
        raise EnoughError

    with interruptible(end):
        other = threading.Thread(target=checkpoint)
        other.start()
        other.join()
        with interruptible(lambda: None):
            checkpoint()
        with pytest.raises(EnoughError):
            checkpoint()
