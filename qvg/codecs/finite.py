"""What every codec that is not the identity does first."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_MAGNITUDE = 2.0**48  # squared and summed over channels and tokens it is still an FP32 number


def finite(x: Tensor) -> Tensor:
    """x [B, H, S, D] in FP32 without NaN, infinities or magnitudes above MAX_MAGNITUDE."""
    x = x.float()
    # False for NaN too. Nearly always true, and one pass.
    if bool(x.abs().amax() <= MAX_MAGNITUDE):
        return x
    known = torch.nan_to_num(x, nan=0.0, posinf=0.0, neginf=0.0)
    limit = known.abs().amax(dim=(2, 3), keepdim=True).clamp_(max=MAX_MAGNITUDE)
    return torch.nan_to_num(x, nan=0.0, posinf=MAX_MAGNITUDE, neginf=-MAX_MAGNITUDE).clamp_(-limit, limit)
