"""Packing by shifts; unpacking by looking up all the levels of a byte at once, one pass in eager torch."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding

Bits = Literal[2, 4]


def pack(levels: Tensor, bits: Bits) -> Tensor:
    """Levels -t..t with t = 2 ** (bits - 1) - 1, any type, [..., D] -> uint8 [..., D * bits / 8].

    A code is level + t; the first of the 8 / bits channels of a byte is in its lowest bits.
    """
    codes = (levels + (2 ** (bits - 1) - 1)).to(torch.uint8).unflatten(-1, (-1, 8 // bits))
    packed = codes[..., 0].clone()
    for place in range(1, 8 // bits):
        packed |= codes[..., place] << (place * bits)
    return packed


def unpack(codes: Tensor, bits: Bits, dtype: torch.dtype = torch.float32) -> Tensor:
    """uint8 [..., D * bits / 8] -> levels [..., D] in `dtype`."""
    return embedding(codes.int(), _levels_of_bytes(bits, dtype, codes.device)).flatten(-2)


@lru_cache(maxsize=16)
def _levels_of_bytes(bits: Bits, dtype: torch.dtype, device: torch.device) -> Tensor:
    """[256, 8 / bits]"""
    shifts = torch.arange(0, 8, bits, device=device)
    codes = (torch.arange(256, device=device).unsqueeze(-1) >> shifts) & (2**bits - 1)
    return (codes - (2 ** (bits - 1) - 1)).to(dtype)
