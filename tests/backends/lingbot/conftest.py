"""The same arithmetic on every machine, in FP32 all the way."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from qvg.codecs.identity import BF16Codec
from qvg.device import Choice
from qvg.payload import BF16Payload


class FP32Codec(BF16Codec):
    """Keeps encoded spans as they come."""

    def encode(self, x: Tensor, warm: BF16Payload | None = None) -> BF16Payload:
        return BF16Payload(x.clone(), x.dtype)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For small tensors one is faster than two, and does not fight over a busy machine's cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "qvg.cache.choose", lambda device, head_dim: Choice(torch.float32, "math", "for comparison")
    )
    monkeypatch.setattr("qvg.cache.build_codec", lambda codec, tensor: FP32Codec())
