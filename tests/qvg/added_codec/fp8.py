"""FP8 E4M3 with one scale for each token: a codec as one would add it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qvg.config import FP8Config, TensorName  # pyright: ignore[reportAttributeAccessIssue]
from qvg.ops.finite import finite
from qvg.ops.rotate import rotate
from qvg.payload import total_bytes
from qvg.rope import Rope

TOP = 256.0


@dataclass(frozen=True, eq=False)
class FP8Payload:
    codes: Tensor  # e4m3 [B, H, S, D]
    scales: Tensor  # bf16 [B, H, S, 1]
    dtype: torch.dtype

    @property
    def parts(self) -> Mapping[str, Tensor]:
        return {"codes": self.codes, "scales": self.scales}

    @property
    def shape(self) -> torch.Size:
        return self.codes.shape

    @property
    def stored_bytes(self) -> int:
        return total_bytes(self.parts)

    def with_parts(self, parts: Mapping[str, Tensor]) -> FP8Payload:
        return replace(self, **parts)


@dataclass(frozen=True, slots=True)
class FP8Codec:
    config: FP8Config
    tensor: TensorName

    def encode(self, x: Tensor, warm: FP8Payload | None = None) -> FP8Payload:
        values = finite(x)[0].float()
        scales = (values.abs().amax(dim=-1, keepdim=True).clamp_min(1e-20) / TOP).bfloat16()
        return FP8Payload((values / scales.float()).to(torch.float8_e4m3fn), scales, x.dtype)

    def decode(
        self,
        payload: FP8Payload,
        dtype: torch.dtype | None = None,
        start: int = 0,
        *,
        rope: Rope | None = None,
        first_frame: int = 0,
        out: Tensor | None = None,
    ) -> Tensor:
        x = payload.codes[:, :, start:].float() * payload.scales[:, :, start:].float()
        return rotate(x.to(dtype or payload.dtype), rope, first_frame, out)
