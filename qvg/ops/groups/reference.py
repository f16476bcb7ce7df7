"""Symmetric quantisation in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from qvg.ops.pack import pack
from qvg.ops.pack.reference import LLOYD_MAX, Bits, Code

E4M3_MAX = 448.0
LARGEST_PATTERN = 0x7E  # the bits of 448; positive E4M3 numbers are in the order of their bits
# Around the root mean square, in E4M3 numbers (8 an octave). More to the top: outliers pull the scale up.
CANDIDATES = range(-3, 6)


def quantise_groups(x: Tensor, group: int, bits: Bits, code: Code = "absmax") -> tuple[Tensor, Tensor]:
    """x: fp32 [..., D], finite -> codes uint8 [..., D * bits / 8], scales e4m3 [..., D / group].

    "absmax": the scale of a group is its largest magnitude over the top level t (1 or 7), as in the paper. It
    saturates at 448: what is beyond 448 * t decodes to that. A scale that rounds to zero (below 2 ** -10)
    makes the whole group zero.

    "lloyd-max" (2 bits): of the E4M3 numbers around the group's root mean square, the scale of least squared
    error; zero where that is zero.
    """
    groups = x.unflatten(-1, (-1, group))
    levels, scales = _lloyd_max(groups) if code == "lloyd-max" else _absmax(groups, bits)
    return pack(levels.flatten(-2), bits), scales


def to_e4m3(x: Tensor) -> Tensor:
    """The nearest E4M3 number, at most 448 in magnitude."""
    # Clamped first: the cast overflows to NaN on some versions and devices.
    return x.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def _absmax(groups: Tensor, bits: Bits) -> tuple[Tensor, Tensor]:
    top = 2 ** (bits - 1) - 1
    scales = to_e4m3(groups.abs().amax(dim=-1) / top)
    stored = scales.float()
    inverse = torch.where(stored > 0, 1 / stored, 0.0)
    return (groups * inverse.unsqueeze(-1)).round_().clamp_(-top, top), scales


def _lloyd_max(groups: Tensor) -> tuple[Tensor, Tensor]:
    """Levels -1..2 (the four in order) and scales."""
    inner, outer = LLOYD_MAX
    boundary = (inner + outer) / 2
    sizes = groups.abs()
    # A Gaussian's scale is its deviation.
    start = to_e4m3(sizes.square().mean(dim=-1).sqrt_()).view(torch.uint8)
    total, count = sizes.sum(dim=-1), sizes.shape[-1]
    best, least = start, torch.full_like(total, torch.inf)
    for offset in CANDIDATES:
        pattern = (start.to(torch.int16) + offset).clamp_(0, LARGEST_PATTERN).to(torch.uint8)
        scale = pattern.view(torch.float8_e4m3fn).float()
        # Every size at the inner level, without the squares of the sizes, the same for every candidate; then
        # what the sizes beyond the boundary gain: (a - inner s)^2 - (a - outer s)^2.
        beyond = (sizes - (boundary * scale).unsqueeze(-1)).relu_().sum(dim=-1)
        error = scale * (inner * (count * inner * scale - 2 * total) - 2 * (outer - inner) * beyond)
        best = torch.where(error < least, pattern, best)
        least = torch.minimum(error, least)
    scales = best.view(torch.float8_e4m3fn)
    far = (sizes >= (boundary * scales.float()).unsqueeze(-1)).float()
    return torch.where(groups < 0, -far, 1 + far), scales
