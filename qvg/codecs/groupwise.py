"""Round to nearest between the ends of small groups: RTN, and with keys grouped along tokens KIVI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from qvg.config import GroupwiseConfig, TensorName
from qvg.ops.affine import dequantize_affine, quantize_affine
from qvg.ops.finite import finite
from qvg.payload import GroupwisePayload
from qvg.rope import Rope


@dataclass(frozen=True, slots=True)
class GroupwiseCodec:
    """Groups along `axis`, the first of them beginning with the first token of what is encoded."""

    config: GroupwiseConfig
    tensor: TensorName = "k"

    @property
    def axis(self) -> Literal["channels", "tokens"]:
        """The dimension along which values share a group."""
        return self.config.axis(self.tensor)

    @torch.no_grad()
    def encode(self, x: Tensor, warm: GroupwisePayload | None = None) -> GroupwisePayload:
        """x: [B, H, S, D]. There is nothing to warm.

        NaN is taken as 0, and an infinity as the largest finite magnitude of its head.
        """
        config = self.config
        config.check_head_dim(x.shape[-1])
        values, limit = finite(x)
        parts = quantize_affine(values, config.group, config.bits, self.axis, limit)
        return GroupwisePayload(*parts, config, self.axis, x.shape[2], x.dtype)

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
        return dequantize_affine(
            payload.codes,
            payload.scales,
            payload.zeros,
            payload.config.group,
            payload.config.bits,
            payload.axis,
            dtype or payload.dtype,
            start,
            run=payload.run,
            rope=rope,
            first_frame=first_frame,
            out=out,
        )
