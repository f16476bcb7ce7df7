"""QuaRot: a Hadamard rotation of the channels in front of another codec."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qvg.codecs.finite import finite
from qvg.codecs.groupwise import GroupwiseCodec
from qvg.config import RotatedConfig
from qvg.ops.hadamard import hadamard
from qvg.payload import GroupwisePayload


@dataclass(frozen=True, slots=True)
class RotatedCodec:
    """Rotates, then `inner`; decoding rotates back in FP32.

    Keys come before RoPE, which does not commute with the rotation: it cannot be folded into the queries.
    """

    config: RotatedConfig
    inner: GroupwiseCodec

    @torch.no_grad()
    def encode(self, x: Tensor, warm: GroupwisePayload | None = None) -> GroupwisePayload:
        """x: [B, H, S, D]. There is nothing to warm.

        NaN is taken as 0, and an infinity as the largest finite magnitude of its head.
        """
        self.config.check_head_dim(x.shape[-1])
        # Before the rotation: one bad channel would spoil all of its token.
        payload = self.inner.encode(hadamard(finite(x)))
        return replace(payload, dtype=x.dtype)

    def decode(self, payload: GroupwisePayload, dtype: torch.dtype | None = None, start: int = 0) -> Tensor:
        """[B, H, S - start, D]"""
        return hadamard(self.inner.decode(payload, torch.float32, start)).to(dtype or payload.dtype)
