"""RoPE and PRoPE on a GPU: one reading of what the cache gives, in FP32, and one rounding.

The history is turned anew at every denoising step of every layer. In plain torch that is some twenty passes
over it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qvg.rope import Rope

TOKENS = 16  # of a program


def turn(
    x: Tensor, matrices: Tensor, rope: Rope | None = None, first_frame: int = 0
) -> tuple[Tensor | None, Tensor]:
    """x [1, H, S, D] rotated (None without `rope`) and projected by `matrices` fp32 [F, 4, 4]: contiguous,
    x's dtype.
    """
    x = x if x.stride(-1) == 1 else x.contiguous()
    _, heads, tokens, head_dim = x.shape
    projected = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    rotated = None if rope is None else torch.empty_like(projected)
    matrices = matrices.contiguous()
    _turn[(triton.cdiv(tokens, TOKENS), heads)](
        x,
        projected if rotated is None else rotated,
        projected,
        matrices,
        matrices if rope is None else rope.frame,
        matrices if rope is None else rope.place,
        tokens,
        tokens // len(matrices),
        first_frame,
        x.stride(1),
        x.stride(2),
        head_dim,
        0 if rope is None else rope.frame.shape[1],
        rope is not None,
        TOKENS,
        num_warps=4,
    )
    return rotated, projected


@triton.jit(do_not_specialize=["S", "P", "first_frame"])
def _turn(
    p_x, p_rotated, p_projected, p_matrices, p_frame, p_place,
    S, P, first_frame, s_h, s_s,
    D: tl.constexpr, A: tl.constexpr, ROTATE: tl.constexpr, b_s: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of tokens, heads). Outputs [H, S, D]; P tokens a frame; A pairs of channels turn by
    frame.
    """
    head = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * b_s + tl.arange(0, b_s)
    inside = rows[:, None] < S
    channels = tl.arange(0, D)[None, :]
    x = tl.load(p_x + head * s_h + rows.to(tl.int64)[:, None] * s_s + channels, mask=inside, other=0.0).to(
        tl.float32
    )
    out = head * S * D + rows.to(tl.int64)[:, None] * D + channels
    rows = tl.minimum(rows, S - 1)  # the tables end where the tokens do

    # Of every four channels: 0 and 2, 1 and 3.
    even, odd = tl.split(tl.reshape(x, (b_s, D // 4, 2, 2)))
    x0, x2 = tl.split(even)
    x1, x3 = tl.split(odd)
    m = p_matrices + (rows // P)[:, None] * 16
    y0 = tl.load(m) * x0 + tl.load(m + 1) * x1 + tl.load(m + 2) * x2 + tl.load(m + 3) * x3
    y1 = tl.load(m + 4) * x0 + tl.load(m + 5) * x1 + tl.load(m + 6) * x2 + tl.load(m + 7) * x3
    y2 = tl.load(m + 8) * x0 + tl.load(m + 9) * x1 + tl.load(m + 10) * x2 + tl.load(m + 11) * x3
    y3 = tl.load(m + 12) * x0 + tl.load(m + 13) * x1 + tl.load(m + 14) * x2 + tl.load(m + 15) * x3
    y = tl.reshape(tl.join(tl.join(y0, y2), tl.join(y1, y3)), (b_s, D))
    tl.store(p_projected + out, y.to(p_projected.dtype.element_ty), inside)

    if ROTATE:
        by_frame = channels < 2 * A
        frame = (first_frame + rows // P).to(tl.int64)[:, None] * (2 * A) + channels
        place = (rows % P).to(tl.int64)[:, None] * (D - 2 * A) + channels - 2 * A
        table = tl.load(p_frame + frame, mask=by_frame, other=0.0)
        table = tl.where(by_frame, table, tl.load(p_place + place, mask=channels >= 2 * A, other=0.0))
        cos, sin = tl.split(tl.reshape(table, (b_s, D // 2, 2)))
        a, b = tl.split(tl.reshape(x, (b_s, D // 2, 2)))
        z = tl.reshape(tl.join(a * cos - b * sin, a * sin + b * cos), (b_s, D))
        tl.store(p_rotated + out, z.to(p_rotated.dtype.element_ty), inside)
