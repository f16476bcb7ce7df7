"""What a codec is to the cache."""

from __future__ import annotations

from typing import Protocol, TypeVar

import torch
from torch import Tensor

from qvg.payload import Payload
from qvg.rope import Rope

P = TypeVar("P", bound=Payload)


class Codec(Protocol[P]):
    def encode(self, x: Tensor, warm: P | None = None) -> P:
        """x: [B, H, S, D]. `warm` is the payload of the span before, from a codec of the same config."""
        ...

    def decode(
        self,
        payload: P,
        dtype: torch.dtype | None = None,
        start: int = 0,
        *,
        rope: Rope | None = None,
        first_frame: int = 0,
        out: Tensor | None = None,
    ) -> Tensor:
        """[B, H, S - start, D] in `dtype` (None: what was encoded), without the first `start` tokens.

        With `rope` they are whole frames, of which the first is `first_frame`, and are rotated. `out` is
        where to write them: any tensor of that shape with contiguous channels; its type is the result's.
        """
        ...
