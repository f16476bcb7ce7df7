"""The Hadamard rotation on a GPU, as products with a matrix of ones and minus ones.

Tensor cores multiply BF16: FP32 input is cut into three BF16 numbers that add up to it.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from qvg.ops.card import card_of
from qvg.ops.triton import launch, load_tokens, rows_contiguous, tiles


def hadamard(x: Tensor, limit: Tensor | None = None) -> Tensor:
    """fp32 [B, H, S, D]; see the reference."""
    x = rows_contiguous(x)
    batch, heads, tokens, head_dim = x.shape
    block, warps = card_of(x.device).tiles(head_dim).rotated
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    launch(
        _hadamard,
        (tiles(tokens, block), batch * heads, 1),
        (x, limit, signs(head_dim, x.device), out),
        (tokens, heads),
        (
            *x.stride()[:3],
            head_dim,
            head_dim**-0.5,
            1 if x.dtype == torch.bfloat16 else 3,
            limit is not None,
            block,
        ),
        warps,
    )
    return out


@lru_cache(maxsize=8)
def signs(head_dim: int, device: torch.device) -> Tensor:
    """bf16 [D, D]: 1 where an even number of the bits that row and column share are set, else -1."""
    shared = torch.arange(head_dim, device=device).unsqueeze(1) & torch.arange(head_dim, device=device)
    parity = torch.zeros_like(shared)
    while head_dim > 1:
        parity, shared, head_dim = parity ^ (shared & 1), shared >> 1, head_dim // 2
    return (1 - 2 * parity).bfloat16()


@triton.jit(do_not_specialize=["S", "H"])
def _hadamard(
    p_x,
    p_limit,
    p_signs,
    p_out,
    S,
    H,
    s_b,
    s_h,
    s_s,
    D: tl.constexpr,
    FACTOR: tl.constexpr,
    PARTS: tl.constexpr,
    CLEAN: tl.constexpr,
    b_s: tl.constexpr,
):
    """Grid (tiles of tokens, heads)."""
    n = tl.program_id(1)
    rows = tl.program_id(0) * b_s + tl.arange(0, b_s)
    o_d = tl.arange(0, D)
    x = load_tokens(p_x, p_limit, n, H, rows, S, s_b, s_h, s_s, D, CLEAN)
    signs = tl.load(p_signs + o_d[:, None] * D + o_d[None, :])
    total = tl.zeros((b_s, D), tl.float32)
    for _ in tl.static_range(PARTS):
        part = x.to(tl.bfloat16)
        total = tl.dot(part, signs, total)
        x -= part.to(tl.float32)
    o_x = (n.to(tl.int64) * S + rows)[:, None] * D + o_d[None, :]
    tl.store(p_out + o_x, total * FACTOR, mask=rows[:, None] < S)
