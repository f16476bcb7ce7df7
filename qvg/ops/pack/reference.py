"""Packing by shifts; unpacking by looking up all the levels of a byte at once, one pass in eager torch.

A code is a table of levels: whole numbers, or levels that stand for the sizes of a Gaussian's values.
Channels of a token share a byte; of "trit", which is three levels and no power of two, five tokens do.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Bits = Literal[2, 4]
Code = Literal["int2", "int4", "sign", "trit", "quad"]

# +-0.4528 and +-1.510 (Max 1960, table I; Lloyd 1982) as BF16 numbers: decoding in BF16 rounds once.
LLOYD_MAX = (0.453125, 1.5078125)
# By code number. "int2" has room for a fourth level, which groups with a zero point use.
LEVELS: Mapping[Code, tuple[float, ...]] = MappingProxyType(
    {
        "int2": (-1, 0, 1, 2),
        "int4": tuple(range(-7, 9)),
        "sign": (-1, 1),
        "trit": (-1, 0, 1),
        "quad": (-LLOYD_MAX[1], -LLOYD_MAX[0], LLOYD_MAX[0], LLOYD_MAX[1]),
    }
)
FINE: Code = "quad"  # of what the others lost, where that is kept too
# So many BF16 levels are copied as one number of their size: four times as fast as copying them as a row.
WHOLE = MappingProxyType({2: torch.int32, 4: torch.int64, 8: torch.complex128})
TRITS = 5  # of as many tokens in a byte: 3 ** 5 = 243


def code_of(bits: Bits) -> Code:
    """Whole levels -t..t + 1, t = 2 ** (bits - 1) - 1."""
    return "int2" if bits == 2 else "int4"


def bits_of(code: Code) -> int:
    """Bits of a code number where channels share a byte; not of "trit"."""
    return {2: 1, 4: 2, 16: 4}[len(LEVELS[code])]


def pack(numbers: Tensor, code: Code) -> Tensor:
    """Code numbers from 0, any type, [..., S, D] -> uint8 [..., S, D * bits / 8], of "trit" [..., S / 5, D].

    S / 5 is rounded up, and what is missing is 0. The first of the channels (tokens) of a byte is in its
    lowest bits (is its lowest digit).
    """
    numbers = numbers.to(torch.uint8)
    if code == "trit":
        missing = -numbers.shape[-2] % TRITS
        digits = functional.pad(numbers, (0, 0, 0, missing)).unflatten(-2, (-1, TRITS))
        weights = torch.tensor([1, 3, 9, 27, 81], dtype=torch.uint8, device=numbers.device)
        return (digits * weights.unsqueeze(-1)).sum(dim=-2, dtype=torch.uint8)
    bits = bits_of(code)
    places = numbers.unflatten(-1, (-1, 8 // bits))
    packed = places[..., 0].clone()
    for place in range(1, 8 // bits):
        packed |= places[..., place] << (place * bits)
    return packed


def rows_of(tokens: int, run: int | None, code: Code) -> int:
    """Rows of bytes that `tokens` take: of "trit", every `run` of them begins with a byte of its own."""
    return tokens if code != "trit" else tokens // (run or tokens) * -(-(run or tokens) // TRITS)


def unpack(
    codes: Tensor,
    code: Code,
    dtype: torch.dtype = torch.float32,
    start: int = 0,
    tokens: int | None = None,
    run: int | None = None,
) -> Tensor:
    """What `pack` made -> levels [..., tokens - start, D] in `dtype`; without the first `start` tokens.

    `tokens` is S, in runs of `run` that were packed one by one (None: all at once); only "trit" needs them.
    """
    if code != "trit":
        return _look_up(codes[..., start:, :], code, dtype).flatten(-2)
    run = run or tokens or codes.shape[-2] * TRITS
    runs = codes.unflatten(-2, (-1, -(-run // TRITS)))  # [..., runs, ceil(run / 5), D]
    first = start // run
    levels = _look_up(runs[..., first:, :, :], code, dtype)[..., :TRITS]
    levels = levels.movedim(-1, -2).flatten(-3, -2)[..., :run, :]
    return levels.flatten(-3, -2)[..., start - first * run :, :]


def _look_up(codes: Tensor, code: Code, dtype: torch.dtype) -> Tensor:
    """[..., as many as a byte holds, or with padding more]"""
    table = _levels_of_bytes(code, codes.device)
    levels = table.index_select(0, codes.int().flatten())
    # Every level is a BF16 number, whatever is worked in.
    return levels.view(torch.bfloat16).view(*codes.shape, table.itemsize // 2).to(dtype)


@lru_cache(maxsize=16)
def _levels_of_bytes(code: Code, device: torch.device) -> Tensor:
    """256 numbers, each the BF16 levels of a byte side by side; of "trit" filled up to 8."""
    byte = torch.arange(256, device=device).unsqueeze(-1)
    levels = torch.tensor(LEVELS[code], dtype=torch.bfloat16, device=device)
    if code == "trit":
        table = functional.pad(levels[byte // 3 ** torch.arange(TRITS, device=device) % 3], (0, 3))
    else:
        bits = bits_of(code)
        table = levels[(byte >> torch.arange(0, 8, bits, device=device)) & (2**bits - 1)]
    return table.view(WHOLE[table.shape[1]]).squeeze(-1)
