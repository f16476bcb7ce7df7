"""BF16 as a codec, so that the baseline takes the same path as everything else."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qvg.config import BF16, BF16Config, TensorName
from qvg.ops.rotate import rotate
from qvg.payload import BF16Payload
from qvg.rope import Rope


@dataclass(frozen=True, slots=True)
class BF16Codec:
    """Stores a copy in BF16."""

    config: BF16Config = BF16
    tensor: TensorName = "k"

    @torch.no_grad()
    def encode(self, x: Tensor, warm: BF16Payload | None = None) -> BF16Payload:
        """x: [B, H, S, D]; a copy. There is nothing to warm."""
        values = torch.empty(x.shape, dtype=torch.bfloat16, device=x.device)
        return BF16Payload(values.copy_(x), x.dtype)

    def decode(
        self,
        payload: BF16Payload,
        dtype: torch.dtype | None = None,
        start: int = 0,
        *,
        rope: Rope | None = None,
        first_frame: int = 0,
        out: Tensor | None = None,
    ) -> Tensor:
        """[B, H, S - start, D]; a view of the payload where nothing is to be done. See `Codec`."""
        return rotate(payload.values[:, :, start:].to(dtype or payload.dtype), rope, first_frame, out)
