"""Symmetric quantisation in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from qvg.ops.pack import pack
from qvg.ops.pack.reference import Bits

E4M3_MAX = 448.0


def quantise_groups(x: Tensor, group: int, bits: Bits) -> tuple[Tensor, Tensor]:
    """x: fp32 [..., D], finite -> codes uint8 [..., D * bits / 8], scales e4m3 [..., D / group].

    The scale of a group is its largest magnitude over the top level t (1 or 7), as in the paper. It saturates
    at 448: what is beyond 448 * t decodes to that. A scale that rounds to zero (below 2 ** -10) makes the
    whole group zero.
    """
    top = 2 ** (bits - 1) - 1
    groups = x.unflatten(-1, (-1, group))
    # Clamped first: the cast overflows to NaN on some versions and devices.
    scales = (groups.abs().amax(dim=-1) / top).clamp_(max=E4M3_MAX).to(torch.float8_e4m3fn)
    stored = scales.float()
    inverse = torch.where(stored > 0, 1 / stored, 0.0)
    levels = (groups * inverse.unsqueeze(-1)).round_().clamp_(-top, top)
    return pack(levels.flatten(-2), bits), scales
