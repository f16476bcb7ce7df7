"""The largest finite magnitude of every head in one pass."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qvg.ops.finite.reference import MAX_MAGNITUDE
from qvg.ops.triton import launch, rows_contiguous, tiles, token_rows

BLOCK = 256  # tokens of a program


def largest(x: Tensor) -> Tensor:
    """fp32 [B, H]; see the reference."""
    x = rows_contiguous(x)
    batch, heads, tokens, head_dim = x.shape
    out = torch.zeros(batch, heads, dtype=torch.float32, device=x.device)
    launch(
        _largest,
        (tiles(tokens, BLOCK), batch * heads, 1),
        (x, out.view(torch.int32)),
        (tokens, heads),
        (*x.stride()[:3], MAX_MAGNITUDE, head_dim, BLOCK),
        8,
    )
    return out


@triton.jit(do_not_specialize=["S", "H"])
def _largest(p_x, p_out, S, H, s_b, s_h, s_s, MOST: tl.constexpr, D: tl.constexpr, BLOCK: tl.constexpr):
    """Grid (tiles of tokens, heads). Magnitudes are in the order of their bits: an integer maximum, which no
    order of arrival changes."""
    n = tl.program_id(1)
    rows = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(token_rows(p_x, n, H, rows, s_b, s_h, s_s, D), mask=rows[:, None] < S, other=0.0)
    size = tl.abs(x.to(tl.float32))
    size = tl.where(size < float("inf"), size, 0.0)
    most = tl.minimum(tl.max(tl.max(size, axis=1), axis=0), MOST)
    tl.atomic_max(p_out + n, most.to(tl.int32, bitcast=True), sem="relaxed")
