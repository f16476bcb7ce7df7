"""Merging two partial attentions on a GPU in one pass over their outputs."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from qvg.ops.attention.reference import Partial
from qvg.ops.triton import launch, rows_contiguous, tiles, token_rows

BLOCK = 32  # queries of a program


def merge(total: Partial, piece: Partial) -> Partial:
    """As the reference's; a `total` in FP32 is overwritten, any other is not."""
    out, lse = total.out, total.lse.contiguous()
    batch, heads, queries, head_dim = out.shape
    if out.dtype == torch.float32 and out.is_contiguous():
        merged = out
    else:
        merged = torch.empty(out.shape, dtype=torch.float32, device=out.device)
    merged_lse = torch.empty_like(lse)
    first, second = rows_contiguous(out), rows_contiguous(piece.out)
    launch(
        _merge,
        (tiles(queries, BLOCK), batch * heads, 1),
        (first, lse, second, piece.lse.contiguous(), merged, merged_lse),
        (queries, heads),
        (*first.stride()[:3], *second.stride()[:3], head_dim, BLOCK),
        4,
    )
    return Partial(merged, merged_lse)


@triton.jit(do_not_specialize=["Q", "H"])
def _merge(
    p_a,
    p_lse_a,
    p_b,
    p_lse_b,
    p_out,
    p_lse,
    Q,
    H,
    s_b,
    s_h,
    s_q,
    t_b,
    t_h,
    t_q,
    D: tl.constexpr,
    b_q: tl.constexpr,
):
    """Grid (tiles of queries, heads). b weighs exp(lse_b) / (exp(lse_a) + exp(lse_b))."""
    n = tl.program_id(1)
    rows = tl.program_id(0) * b_q + tl.arange(0, b_q)
    inside = rows < Q
    slot = n.to(tl.int64) * Q + rows
    lse_a = tl.load(p_lse_a + slot, mask=inside, other=0.0)
    lse_b = tl.load(p_lse_b + slot, mask=inside, other=0.0)
    a = tl.load(token_rows(p_a, n, H, rows, s_b, s_h, s_q, D), mask=inside[:, None], other=0.0).to(tl.float32)
    b = tl.load(token_rows(p_b, n, H, rows, t_b, t_h, t_q, D), mask=inside[:, None], other=0.0).to(tl.float32)
    top = tl.maximum(lse_a, lse_b)
    exp_a, exp_b = tl.exp(lse_a - top), tl.exp(lse_b - top)
    weight = exp_b / (exp_a + exp_b)
    out = a + (b - a) * weight[:, None]
    o_out = slot[:, None] * D + tl.arange(0, D)[None, :]
    tl.store(p_out + o_out, out, mask=inside[:, None])
    tl.store(p_lse + slot, top + tl.log(exp_a + exp_b), mask=inside)
