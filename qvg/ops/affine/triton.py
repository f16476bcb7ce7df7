"""Asymmetric quantization on a GPU."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qvg.ops.affine.reference import Axis
from qvg.ops.pack.reference import Bits
from qvg.ops.reconstruct.triton import load_levels
from qvg.ops.residual.triton import store_codes
from qvg.ops.rotate.reference import check_out
from qvg.ops.rotate.triton import rotated
from qvg.ops.triton import (
    e4m3_bits,
    e4m3_value,
    inverse_or_zero,
    launch,
    load_tokens,
    rounded,
    rows_contiguous,
    tiles,
    token_rows,
)
from qvg.rope import Rope

BLOCK = 64  # tokens of a program where groups are of channels


def quantize_affine(
    x: Tensor, group: int, bits: Bits, axis: Axis, limit: Tensor | None = None, run: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """See the reference."""
    x = rows_contiguous(x)
    batch, heads, tokens, head_dim = x.shape
    along_tokens = axis == "tokens"
    run = run or tokens
    groups = tokens // run * tiles(run, group)
    shape = (groups, head_dim) if along_tokens else (tokens, head_dim // group)
    codes = torch.empty(batch, heads, tokens, head_dim * bits // 8, dtype=torch.uint8, device=x.device)
    scales, zeros = (torch.empty(batch, heads, *shape, dtype=torch.uint8, device=x.device) for _ in range(2))
    block = group if along_tokens else BLOCK
    launch(
        _quantize,
        (groups if along_tokens else tiles(tokens, block), batch * heads, 1),
        (x, limit, codes, scales, zeros),
        (tokens, run, heads),
        (*x.stride()[:3], head_dim, group, bits, along_tokens, limit is not None, block),
        4,
    )
    return codes, scales.view(torch.float8_e4m3fn), zeros.view(torch.float8_e4m3fn)


def dequantize_affine(
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
    """See the reference."""
    batch, heads, tokens, width = codes.shape
    head_dim = width * 8 // bits
    if rope is not None:
        rope.check(tokens - start, head_dim, first_frame)
    if out is None:
        out = torch.empty(batch, heads, tokens - start, head_dim, dtype=dtype, device=codes.device)
    check_out(out, (batch, heads, tokens - start), head_dim)
    if rope is None:
        frame, place, places, turned = None, None, 1, -1
    else:
        frame, place, places, turned = rope.frame, rope.place, rope.place.shape[0], 2 * rope.frame.shape[1]
    launch(
        _dequantize,
        (tiles(tokens - start, BLOCK), batch * heads, 1),
        (codes, scales.view(torch.uint8), zeros.view(torch.uint8), out, frame, place),
        (tokens, start, run or tokens, heads, places, first_frame),
        (
            *codes.stride()[:2],
            *scales.stride()[:2],
            *zeros.stride()[:2],
            *out.stride()[:3],
            head_dim,
            group,
            bits,
            axis == "tokens",
            turned,
            BLOCK,
        ),
        4,
    )
    return out


@triton.jit
def ends(low, high, TOP: tl.constexpr):
    """E4M3 patterns int32 of the scales and, signed, of the zero points of groups from `low` to `high`."""
    step = tl.math.div_rn(high - low, tl.full(low.shape, 2 * TOP + 1, tl.float32))
    zero = low + TOP * step
    bits = e4m3_bits(tl.abs(zero))
    bits = tl.where(zero < 0, bits + 128, bits)
    stored = e4m3_value(bits)
    below = tl.math.div_rn(stored - low, tl.full(low.shape, TOP, tl.float32))
    above = tl.math.div_rn(high - stored, tl.full(low.shape, TOP + 1, tl.float32))
    reaching = tl.maximum(below, above)
    return e4m3_bits(tl.where(reaching > 1.5 * step, reaching, step)), bits


@triton.jit(do_not_specialize=["S", "T", "H"])
def _quantize(
    p_x,
    p_limit,
    p_codes,
    p_scales,
    p_zeros,
    S,
    T,
    H,
    s_b,
    s_h,
    s_s,
    D: tl.constexpr,
    G: tl.constexpr,
    BITS: tl.constexpr,
    ALONG_TOKENS: tl.constexpr,
    CLEAN: tl.constexpr,
    b_s: tl.constexpr,
):
    """Grid (tiles of tokens, or groups of them that begin anew with every run of T; heads)."""
    TOP: tl.constexpr = 2 ** (BITS - 1) - 1
    n = tl.program_id(1)
    tile = tl.program_id(0)
    rows = tile * b_s + tl.arange(0, b_s)
    if ALONG_TOKENS:
        run = (T + b_s - 1) // b_s
        within = tile % run * b_s + tl.arange(0, b_s)
        rows = tl.where(within < T, tile // run * T + within, S)
    x = load_tokens(p_x, p_limit, n, H, rows, S, s_b, s_h, s_s, D, CLEAN)
    row = n.to(tl.int64) * S + rows
    if ALONG_TOKENS:
        inside = rows[:, None] < S
        scale, zero = ends(
            tl.min(tl.where(inside, x, float("inf")), axis=0),
            tl.max(tl.where(inside, x, -float("inf")), axis=0),
            TOP,
        )
        o_g = (n.to(tl.int64) * tl.num_programs(0) + tile) * D + tl.arange(0, D)
        tl.store(p_scales + o_g, scale.to(tl.uint8))
        tl.store(p_zeros + o_g, zero.to(tl.uint8))
        level = (x - e4m3_value(zero)[None, :]) * inverse_or_zero(e4m3_value(scale))[None, :]
    else:
        groups = tl.reshape(x, (b_s, D // G, G))
        scale, zero = ends(tl.min(groups, axis=2), tl.max(groups, axis=2), TOP)
        o_g = row[:, None] * (D // G) + tl.arange(0, D // G)[None, :]
        tl.store(p_scales + o_g, scale.to(tl.uint8), mask=rows[:, None] < S)
        tl.store(p_zeros + o_g, zero.to(tl.uint8), mask=rows[:, None] < S)
        level = (groups - e4m3_value(zero)[:, :, None]) * inverse_or_zero(e4m3_value(scale))[:, :, None]
    code = rounded(tl.minimum(tl.maximum(level, -TOP), TOP + 1)).to(tl.int32) + TOP
    store_codes(p_codes, row, rows < S, code, b_s, D, BITS)


@triton.jit(do_not_specialize=["S", "start", "T", "H", "P", "first_frame"])
def _dequantize(
    p_codes,
    p_scales,
    p_zeros,
    p_out,
    p_frame,
    p_place,
    S,
    start,
    T,
    H,
    P,
    first_frame,
    c_b,
    c_h,
    g_b,
    g_h,
    z_b,
    z_h,
    t_b,
    t_h,
    t_s,
    D: tl.constexpr,
    G: tl.constexpr,
    BITS: tl.constexpr,
    ALONG_TOKENS: tl.constexpr,
    A: tl.constexpr,
    b_s: tl.constexpr,
):
    """Grid (tiles of tokens, heads). A channels are rotated by frame; -1: none is rotated at all.

    Strides are c_ of codes, g_ of scales, z_ of zero points, t_ of the result.
    """
    n = tl.program_id(1)
    b, h = (n // H).to(tl.int64), (n % H).to(tl.int64)
    rows = tl.program_id(0) * b_s + tl.arange(0, b_s)
    tokens = start + rows
    inside = tokens < S
    level = load_levels(p_codes + b * c_b + h * c_h, tokens, inside, b_s, D, BITS, "int", 0.0, 0.0)
    p_scales += b * g_b + h * g_h
    p_zeros += b * z_b + h * z_h
    if ALONG_TOKENS:
        group = tokens // T * ((T + G - 1) // G) + tokens % T // G
        o_g = group.to(tl.int64)[:, None] * D + tl.arange(0, D)[None, :]
        scale = e4m3_value(tl.load(p_scales + o_g, mask=inside[:, None], other=0).to(tl.int32))
        zero = e4m3_value(tl.load(p_zeros + o_g, mask=inside[:, None], other=0).to(tl.int32))
        x = level * scale + zero
    else:
        o_g = tokens.to(tl.int64)[:, None] * (D // G) + tl.arange(0, D // G)[None, :]
        scale = e4m3_value(tl.load(p_scales + o_g, mask=inside[:, None], other=0).to(tl.int32))
        zero = e4m3_value(tl.load(p_zeros + o_g, mask=inside[:, None], other=0).to(tl.int32))
        x = tl.reshape(level, (b_s, D // G, G)) * scale[:, :, None] + zero[:, :, None]
        x = tl.reshape(x, (b_s, D))
    if A >= 0:
        within = tl.minimum(rows, S - start - 1)  # the tables end where the tokens do
        x = rotated(x, p_frame, p_place, within, P, first_frame, b_s, D, A)
    o_out = token_rows(p_out, n, H, rows, t_b, t_h, t_s, D)
    tl.store(o_out, x.to(p_out.dtype.element_ty), mask=inside[:, None])
