"""Asymmetric quantization in plain torch.

The zero point is not the least value of a group but the value of level 0, a third (7 / 15 at 4 bits) up the
range: it is nearer to zero, and so is its rounding error in FP8.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from qvg.ops.e4m3 import from_e4m3, to_e4m3
from qvg.ops.finite import cleaned
from qvg.ops.pack import pack, unpack
from qvg.ops.pack.reference import Bits, code_of
from qvg.ops.rotate import rotate_reference
from qvg.rope import Rope

Axis = Literal["channels", "tokens"]


def quantize_affine_reference(
    x: Tensor, group: int, bits: Bits, axis: Axis, limit: Tensor | None = None, run: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """x: [B, H, S, D], finite or with a `limit` -> codes uint8 [B, H, S, D * bits / 8], scales, zeros.

    Scales and zeros are E4M3: [B, H, S, D / group] along channels, [B, H, S / run * ceil(run / group), D]
    along tokens: groups begin anew with every run of `run` tokens (None: S), and its last may be of fewer.
    Levels are -t..t + 1 with t = 1 or 7, and a level steps a
    (2 * t + 1)-th of the range. Where the rounding of the zero point moves the levels by more than half a
    step (values far from zero in a narrow range), the scale grows until they reach both ends again. Both
    saturate at 448.
    """
    top = 2 ** (bits - 1) - 1
    x = cleaned(x, limit)
    if axis == "tokens" and run is not None:
        runs = x.unflatten(-2, (-1, run))
        parts = quantize_affine_reference(runs, group, bits, axis)
        codes, scales, zeros = (part.flatten(-3, -2) for part in parts)
        return codes, scales, zeros
    dim, groups = _grouped(x, group, axis)
    low, high = groups.amin(dim=dim), groups.amax(dim=dim)
    step = (high - low) / (2 * top + 1)
    zeros = to_e4m3(low + top * step)
    zero = zeros.float()
    reaching = torch.maximum((zero - low) / top, (high - zero) / (top + 1))
    scales = to_e4m3(torch.where(reaching > 1.5 * step, reaching, step))
    stored = scales.float()
    inverse = torch.where(stored > 0, 1 / stored, 0.0)
    levels = ((groups - zero.unsqueeze(dim)) * inverse.unsqueeze(dim)).round_().clamp_(-top, top + 1)
    levels = levels.flatten(dim - 1, dim)[..., : x.shape[-2], :]
    return pack(levels + top, code_of(bits)), scales, zeros


def dequantize_affine_reference(
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor,
    group: int,
    bits: Bits,
    axis: Axis,
    dtype: torch.dtype,
    start: int = 0,
    *,
    run: int | None = None,
    rope: Rope | None = None,
    first_frame: int = 0,
    out: Tensor | None = None,
) -> Tensor:
    """[B, H, S - start, D] in `dtype`: zero plus level times scale, without the first `start` tokens.

    `run` is that of `quantize_affine_reference`, and `rope`, `first_frame` and `out` are those of
    `reconstruct_reference`.
    """
    # Zero points, levels and scales are exact in BF16 and their sum is rounded once either way.
    work = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    levels = unpack(codes, code_of(bits), work, start)
    if axis == "channels":
        levels = levels.unflatten(-1, (-1, group))
        scale, zero = (from_e4m3(part[..., start:, :], work).unsqueeze(-1) for part in (scales, zeros))
        x = torch.addcmul(zero, levels, scale).flatten(-2)
    else:
        run = run or codes.shape[-2]
        token = torch.arange(start, codes.shape[-2], device=codes.device)
        rows = token // run * -(-run // group) + token % run // group
        scale, zero = (from_e4m3(part, work).index_select(-2, rows) for part in (scales, zeros))
        x = torch.addcmul(zero, levels, scale)
    return rotate_reference(x.to(dtype), rope, first_frame, out)


def _grouped(x: Tensor, group: int, axis: Axis) -> tuple[int, Tensor]:
    """Which dimension runs over the members of a group, and x cut into groups there."""
    if axis == "channels":
        return -1, x.unflatten(-1, (-1, group))
    missing = -x.shape[-2] % group
    if missing:
        # The last token again and again: the range of its group is the same.
        x = torch.cat([x, x[..., -1:, :].expand(*x.shape[:-2], missing, -1)], dim=-2)
    return -2, x.unflatten(-2, (-1, group))
