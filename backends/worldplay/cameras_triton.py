"""RoPE and PRoPE on a GPU: one read of the cache's output, computation in FP32, and one rounding.

The history is transformed again at every denoising step of every layer: in plain torch, some twenty passes
over it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qvg import Rope
from qvg.ops.rotate.triton import rotated
from qvg.ops.triton import launch, load_tokens, rows_contiguous, tiles, token_rows

TOKENS = 16  # tokens per program


def turn(
    x: Tensor, matrices: Tensor, rope: Rope | None = None, first_frame: int = 0
) -> tuple[Tensor | None, Tensor]:
    """Returns x [B, H, S, D] rotated (None without `rope`), and projected by `matrices` fp32 [F, 4, 4]."""
    x = rows_contiguous(x)
    batch, heads, tokens, head_dim = x.shape
    projected = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    turned = None if rope is None else torch.empty(x.shape, dtype=x.dtype, device=x.device)
    launch(
        _turn,
        (tiles(tokens, TOKENS), batch * heads, 1),
        (
            x,
            projected if turned is None else turned,
            projected,
            matrices,
            matrices if rope is None else rope.frame,
            matrices if rope is None else rope.place,
        ),
        (tokens, heads, tokens // len(matrices), first_frame),
        (
            *x.stride()[:3],
            *projected.stride()[:3],
            head_dim,
            0 if rope is None else 2 * rope.frame.shape[1],
            rope is not None,
            TOKENS,
        ),
        4,
    )
    return turned, projected


@triton.jit(do_not_specialize=["S", "H", "P", "first_frame"])
def _turn(
    p_x, p_turned, p_projected, p_matrices, p_frame, p_place,
    S, H, P, first_frame, s_b, s_h, s_s, t_b, t_h, t_s,
    D: tl.constexpr, A: tl.constexpr, ROTATE: tl.constexpr, b_s: tl.constexpr,
):  # fmt: skip
    """Rotates and projects a tile of tokens. Grid (tiles of tokens, heads).

    P is tokens per frame; matrices are 16 numbers each, row by row.
    """
    n = tl.program_id(1)
    rows = tl.program_id(0) * b_s + tl.arange(0, b_s)
    x = load_tokens(p_x, p_x, n, H, rows, S, s_b, s_h, s_s, D, False)
    inside = tl.minimum(rows, S - 1)  # stays within the matrices and tables for rows beyond the last token

    # The first and third of every four channels, and the second and fourth.
    even, odd = tl.split(tl.reshape(x, (b_s, D // 4, 2, 2)))
    x0, x2 = tl.split(even)
    x1, x3 = tl.split(odd)
    m = p_matrices + (inside // P)[:, None] * 16
    y0 = tl.load(m) * x0 + tl.load(m + 1) * x1 + tl.load(m + 2) * x2 + tl.load(m + 3) * x3
    y1 = tl.load(m + 4) * x0 + tl.load(m + 5) * x1 + tl.load(m + 6) * x2 + tl.load(m + 7) * x3
    y2 = tl.load(m + 8) * x0 + tl.load(m + 9) * x1 + tl.load(m + 10) * x2 + tl.load(m + 11) * x3
    y3 = tl.load(m + 12) * x0 + tl.load(m + 13) * x1 + tl.load(m + 14) * x2 + tl.load(m + 15) * x3
    y = tl.reshape(tl.join(tl.join(y0, y2), tl.join(y1, y3)), (b_s, D))
    there = token_rows(p_projected, n, H, rows, t_b, t_h, t_s, D)
    tl.store(there, y.to(p_projected.dtype.element_ty), rows[:, None] < S)

    if ROTATE:
        z = rotated(x, p_frame, p_place, inside, P, first_frame, b_s, D, A)
        there = token_rows(p_turned, n, H, rows, t_b, t_h, t_s, D)
        tl.store(there, z.to(p_turned.dtype.element_ty), rows[:, None] < S)
