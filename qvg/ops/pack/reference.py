"""Packing by shifts; unpacking by looking up all the levels of a byte at once, one pass in eager torch.

A code is a table of levels: whole numbers, or the four best levels for a Gaussian of unit variance.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import embedding

Bits = Literal[2, 4]
Code = Literal["absmax", "lloyd-max"]

# +-0.4528 and +-1.510 (Max 1960, table I; Lloyd 1982) as BF16 numbers: decoding in BF16 rounds once.
LLOYD_MAX = (0.453125, 1.5078125)


def pack(levels: Tensor, bits: Bits) -> Tensor:
    """Levels -t..t + 1 with t = 2 ** (bits - 1) - 1, any type, [..., D] -> uint8 [..., D * bits / 8].

    What is stored is level + t; the first of the 8 / bits channels of a byte is in its lowest bits. The four
    levels of "lloyd-max", in order, are counted from -1 to 2.
    """
    codes = (levels + (2 ** (bits - 1) - 1)).to(torch.uint8).unflatten(-1, (-1, 8 // bits))
    packed = codes[..., 0].clone()
    for place in range(1, 8 // bits):
        packed |= codes[..., place] << (place * bits)
    return packed


def unpack(codes: Tensor, bits: Bits, dtype: torch.dtype = torch.float32, code: Code = "absmax") -> Tensor:
    """uint8 [..., D * bits / 8] -> levels [..., D] in `dtype`."""
    return embedding(codes.int(), _levels_of_bytes(bits, dtype, codes.device, code)).flatten(-2)


@lru_cache(maxsize=16)
def _levels_of_bytes(bits: Bits, dtype: torch.dtype, device: torch.device, code: Code) -> Tensor:
    """[256, 8 / bits]"""
    shifts = torch.arange(0, 8, bits, device=device)
    codes = (torch.arange(256, device=device).unsqueeze(-1) >> shifts) & (2**bits - 1)
    if code == "lloyd-max":
        inner, outer = LLOYD_MAX
        return torch.tensor([-outer, -inner, inner, outer], dtype=dtype, device=device)[codes]
    return (codes - (2 ** (bits - 1) - 1)).to(dtype)
