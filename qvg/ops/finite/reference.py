"""Removal of NaN and infinities in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_MAGNITUDE = 2.0**48  # its square, summed over channels and tokens, is still finite in FP32


def largest_reference(x: Tensor) -> Tensor:
    """Returns fp32 [B, H]: the largest finite magnitude of every head of x [B, H, S, D], at most 2 ** 48."""
    known = torch.nan_to_num(x.float(), nan=0.0, posinf=0.0, neginf=0.0)
    return known.abs().amax(dim=(2, 3)).clamp_(max=MAX_MAGNITUDE)


def cleaned(x: Tensor, limit: Tensor | None) -> Tensor:
    """Returns x [B, H, S, D] in FP32; with `limit` [B, H], NaN becomes 0 and magnitudes are at most that."""
    x = x.float()
    if limit is None:
        return x
    bound = limit[..., None, None]
    return torch.nan_to_num(x, nan=0.0, posinf=MAX_MAGNITUDE, neginf=-MAX_MAGNITUDE).clamp_(-bound, bound)
