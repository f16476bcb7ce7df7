"""The same arithmetic on every machine, in FP32 all the way."""

import pytest
import torch
from torch import Tensor

from qvg.codecs.identity import BF16Codec
from qvg.device import Choice
from qvg.payload import BF16Payload
from tests.qvg.conftest import one_thread

__all__ = ["FP32Codec", "exact", "one_thread"]


class FP32Codec(BF16Codec):
    """Keeps encoded spans as they come."""

    def encode(self, x: Tensor, warm: BF16Payload | None = None) -> BF16Payload:
        return BF16Payload(x.clone(), x.dtype)


@pytest.fixture(autouse=True)
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "qvg.cache.choose", lambda device, head_dim: Choice(torch.float32, "math", "for comparison")
    )
    monkeypatch.setattr("qvg.cache.build_codec", lambda codec, tensor: FP32Codec())
