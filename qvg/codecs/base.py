"""What a codec is to the cache."""

from __future__ import annotations

from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from qvg.config import WHOLE, Filled
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


class Growth(NamedTuple):
    """What part of a span is encoded: by default a whole one."""

    filled: Filled = WHOLE  # of the span, once it is
    before: Payload | None = None  # what is encoded of the span already
    fine: int = 0  # of the tokens so many, the last, in two bits more

    def run(self, tokens: int) -> int:
        """Tokens of a block: nothing is shared by those of different blocks but the codebooks."""
        return (tokens + (0 if self.before is None else self.before.shape[2])) // self.filled.blocks


@runtime_checkable
class CodebookCodec(Protocol):
    """A codec whose blocks share codebooks in a span that grows. Of others every block is encoded alone."""

    def encode_part(self, x: Tensor, warm: Payload | None, growth: Growth) -> Payload:
        """x: [B, H, S, D], whole blocks. `warm` is the payload of the span before.

        The result is of x alone, but its codebooks begin with those of what comes before it in its span.
        """
        ...
