"""QuaRot: a Hadamard rotation of the channels in front of another codec."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qvg.codecs.groupwise import GroupwiseCodec
from qvg.config import RotatedConfig, TensorName
from qvg.ops.finite import finite
from qvg.ops.hadamard import hadamard
from qvg.ops.rotate import rotate
from qvg.payload import GroupwisePayload
from qvg.rope import Rope


@dataclass(frozen=True, slots=True)
class RotatedCodec:
    """Rotates, then `inner`; decoding rotates back in FP32.

    Keys come before RoPE, which does not commute with the rotation: it cannot be folded into the queries.
    """

    config: RotatedConfig
    tensor: TensorName = "k"

    @property
    def inner(self) -> GroupwiseCodec:
        """The codec of the rotated channels."""
        return GroupwiseCodec(self.config.inner, self.tensor)

    @torch.no_grad()
    def encode(self, x: Tensor, warm: GroupwisePayload | None = None) -> GroupwisePayload:
        """x: [B, H, S, D]. There is nothing to warm.

        NaN is taken as 0, and an infinity as the largest finite magnitude of its head.
        """
        self.config.check_head_dim(x.shape[-1])
        # Before the rotation: one bad channel would spoil all of its token.
        payload = self.inner.encode(hadamard(*finite(x)))
        return replace(payload, dtype=x.dtype)

    def decode(
        self,
        payload: GroupwisePayload,
        dtype: torch.dtype | None = None,
        start: int = 0,
        *,
        rope: Rope | None = None,
        first_frame: int = 0,
        out: Tensor | None = None,
    ) -> Tensor:
        """[B, H, S - start, D]; see `Codec`."""
        rotated_back = hadamard(self.inner.decode(payload, torch.float32, start))
        return rotate(rotated_back.to(dtype or payload.dtype), rope, first_frame, out)
