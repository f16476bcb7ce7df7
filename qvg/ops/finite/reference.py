"""Finite input in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_MAGNITUDE = 2.0**48  # squared and summed over channels and tokens it is still an FP32 number


def largest_reference(x: Tensor) -> Tensor:
    """fp32 [B, H]: the largest finite magnitude of every head of x [B, H, S, D], at most MAX_MAGNITUDE."""
    known = torch.nan_to_num(x.float(), nan=0.0, posinf=0.0, neginf=0.0)
    return known.abs().amax(dim=(2, 3)).clamp_(max=MAX_MAGNITUDE)


def cleaned(x: Tensor, limit: Tensor | None) -> Tensor:
    """x [B, H, S, D] in FP32; with `limit` [B, H], NaN is 0 and no magnitude is above it."""
    x = x.float()
    if limit is None:
        return x
    bound = limit[..., None, None]
    return torch.nan_to_num(x, nan=0.0, posinf=MAX_MAGNITUDE, neginf=-MAX_MAGNITUDE).clamp_(-bound, bound)
