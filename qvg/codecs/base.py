"""What a codec is to the cache."""

from __future__ import annotations

from typing import Protocol, TypeVar

import torch
from torch import Tensor

from qvg.payload import Payload

P = TypeVar("P", bound=Payload)


class Codec(Protocol[P]):
    def encode(self, x: Tensor, warm: P | None = None) -> P:
        """x: [B, H, S, D]. `warm` is the payload of the span before, from a codec of the same config."""
        ...

    def decode(self, payload: P, dtype: torch.dtype | None = None, start: int = 0) -> Tensor:
        """[B, H, S - start, D] in `dtype` (None: what was encoded), without the first `start` tokens."""
        ...
