"""Rotary positions on a GPU; `rotated` also ends the decoding kernels."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qvg.ops.rotate.reference import check_out
from qvg.ops.triton import launch, load_tokens, rows_contiguous, tiles, token_rows
from qvg.rope import Rope

BLOCK = 64  # tokens of a program


def rotate(x: Tensor, rope: Rope, first_frame: int = 0, out: Tensor | None = None) -> Tensor:
    """See the reference."""
    x = rows_contiguous(x)
    batch, heads, tokens, head_dim = x.shape
    rope.check(tokens, head_dim, first_frame)
    if out is None:
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    check_out(out, x.shape[:3], head_dim)
    launch(
        _rotate,
        (tiles(tokens, BLOCK), batch * heads, 1),
        (x, out, rope.frame, rope.place),
        (tokens, heads, rope.place.shape[0], first_frame),
        (*x.stride()[:3], *out.stride()[:3], head_dim, 2 * rope.frame.shape[1], BLOCK),
        4,
    )
    return out


@triton.jit
def turns(p_frame, p_place, rows, P, first_frame, b_s: tl.constexpr, D: tl.constexpr, A: tl.constexpr):
    """Cosines and sines fp32 [b_s, D / 2] of tokens `rows` from `first_frame` on.

    The first A channels turn by frame, the others by place; a token's are neighbours in the two tables.
    """
    o_d = tl.arange(0, D)
    by_frame = o_d[None, :] < A
    frame = (first_frame + rows // P).to(tl.int64)[:, None] * A + o_d[None, :]
    place = (rows % P).to(tl.int64)[:, None] * (D - A) + o_d[None, :] - A
    turn = tl.load(p_frame + frame, mask=by_frame, other=0.0)
    turn = tl.where(by_frame, turn, tl.load(p_place + place, mask=o_d[None, :] >= A, other=0.0))
    return tl.split(tl.reshape(turn, (b_s, D // 2, 2)))


@triton.jit
def rotate_rows(x, cos, sin, b_s: tl.constexpr, D: tl.constexpr):
    """x fp32 [b_s, D] with neighbouring channels turned together."""
    a, b = tl.split(tl.reshape(x, (b_s, D // 2, 2)))
    return tl.reshape(tl.join(a * cos - b * sin, a * sin + b * cos), (b_s, D))


@triton.jit
def rotated(x, p_frame, p_place, rows, P, first_frame, b_s: tl.constexpr, D: tl.constexpr, A: tl.constexpr):
    """`rotate_rows` by the `turns` of tokens `rows`."""
    cos, sin = turns(p_frame, p_place, rows, P, first_frame, b_s, D, A)
    return rotate_rows(x, cos, sin, b_s, D)


@triton.jit(do_not_specialize=["S", "H", "P", "first_frame"])
def _rotate(
    p_x,
    p_out,
    p_frame,
    p_place,
    S,
    H,
    P,
    first_frame,
    s_b,
    s_h,
    s_s,
    t_b,
    t_h,
    t_s,
    D: tl.constexpr,
    A: tl.constexpr,
    b_s: tl.constexpr,
):
    """Grid (tiles of tokens, heads)."""
    n = tl.program_id(1)
    rows = tl.program_id(0) * b_s + tl.arange(0, b_s)
    x = load_tokens(p_x, p_x, n, H, rows, S, s_b, s_h, s_s, D, False)
    inside = tl.minimum(rows, S - 1)  # the tables end where the tokens do
    x = rotated(x, p_frame, p_place, inside, P, first_frame, b_s, D, A)
    tl.store(token_rows(p_out, n, H, rows, t_b, t_h, t_s, D), x.to(p_out.dtype.element_ty), rows[:, None] < S)
