"""Decoding on a GPU: unpack, scale, add the centroids of all stages and rotate, in registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qvg.ops.pack.reference import FINE, LLOYD_MAX, TRITS, Code, bits_of
from qvg.ops.reconstruct.reference import Fine
from qvg.ops.rotate.reference import check_out
from qvg.ops.rotate.triton import rotate_rows, turns
from qvg.ops.triton import e4m3_value, launch, tiles
from qvg.rope import Rope

# Tokens and warps of a tile. Rotation likes a thread to have eight neighbouring channels and no more.
BLOCK, WARPS = 16, 2
BLOCK_ROTATED, WARPS_ROTATED = 8, 4
# From places -1.5, -0.5, 0.5, 1.5 of the code "quad" to its levels: the place times SLOPE + BEND place ** 2.
BEND = LLOYD_MAX[1] / 3 - LLOYD_MAX[0]
CURVE = (2 * LLOYD_MAX[0] - BEND / 4, BEND)
HEADS = 6  # that share the cosines and sines of a tile


def reconstruct(
    codes: Tensor,
    scales: Tensor,
    labels: Tensor,
    centroids: Tensor,
    code: Code,
    dtype: torch.dtype,
    start: int = 0,
    *,
    powers: Tensor | None = None,
    channels: Tensor | None = None,
    run: int | None = None,
    fine: Fine | None = None,
    rope: Rope | None = None,
    first_frame: int = 0,
    out: Tensor | None = None,
) -> Tensor:
    """See the reference. Heads may be any part of a larger tensor; what is in a head lies together."""
    stages, batch, heads, _, head_dim = centroids.shape
    tokens = labels.shape[-1]
    if rope is not None:
        rope.check(tokens - start, head_dim, first_frame)
    if out is None:
        out = torch.empty(batch, heads, tokens - start, head_dim, dtype=dtype, device=codes.device)
    check_out(out, (batch, heads, tokens - start), head_dim)
    if powers is not None:
        centroids = centroids.view(torch.uint8)
    if rope is None:
        frame, place, places, turned, block, together, warps = None, None, 1, -1, BLOCK, 1, WARPS
    else:
        frame, place, places, turned = rope.frame, rope.place, rope.place.shape[0], 2 * rope.frame.shape[1]
        block, together, warps = BLOCK_ROTATED, HEADS, WARPS_ROTATED
    launch(
        _reconstruct,
        (tiles(tokens - start, block), tiles(heads, together), batch),
        (
            codes,
            scales.view(torch.uint8),
            labels,
            centroids,
            powers,
            channels,
            None if fine is None else fine.codes,
            None if fine is None else fine.scales.view(torch.uint8),
            out,
            frame,
            place,
        ),
        (
            tokens,
            start,
            run or tokens,
            tokens - (0 if fine is None else fine.codes.shape[2]),
            heads,
            places,
            first_frame,
        ),
        (
            *codes.stride()[:2],
            *scales.stride()[:2],
            *labels.stride()[:3],
            *centroids.stride()[:3],
            *((0, 0, 0) if powers is None else powers.stride()[:3]),
            *((0, 0) if channels is None else channels.stride()[:2]),
            *((0, 0, 0, 0) if fine is None else (*fine.codes.stride()[:2], *fine.scales.stride()[:2])),
            *out.stride()[:3],
            head_dim,
            head_dim // scales.shape[-1],
            8 if code == "trit" else bits_of(code),
            stages,
            code,
            powers is not None,
            channels is not None,
            fine is not None,
            turned,
            block,
            together,
            TRITS,
            *CURVE,
            bits_of(FINE),
            FINE,
        ),
        warps,
    )
    return out


# The powers of a group of heads, and channels where there are few, begin anywhere: no other kernel for each.
@triton.jit(
    do_not_specialize=["S", "start", "T", "F", "H", "P", "first_frame"],
    do_not_specialize_on_alignment=["p_powers", "p_channels"],
)
def _reconstruct(
    p_codes,
    p_scales,
    p_labels,
    p_centroids,
    p_powers,
    p_channels,
    p_fine,
    p_ratios,
    p_out,
    p_frame,
    p_place,
    S,
    start,
    T,
    F,
    H,
    P,
    first_frame,
    c_b,
    c_h,
    g_b,
    g_h,
    l_n,
    l_b,
    l_h,
    m_n,
    m_b,
    m_h,
    w_n,
    w_b,
    w_h,
    k_b,
    k_h,
    f_b,
    f_h,
    r_b,
    r_h,
    t_b,
    t_h,
    t_s,
    D: tl.constexpr,
    G: tl.constexpr,
    BITS: tl.constexpr,
    STAGES: tl.constexpr,
    CODE: tl.constexpr,
    E4M3: tl.constexpr,
    CHANNELS: tl.constexpr,
    REFINED: tl.constexpr,
    A: tl.constexpr,
    b_s: tl.constexpr,
    HEADS: tl.constexpr,
    TRITS: tl.constexpr,
    SLOPE: tl.constexpr,
    BEND: tl.constexpr,
    FINE_BITS: tl.constexpr,
    FINE: tl.constexpr,
):
    """Grid (tiles of tokens, HEADS heads together, batch). A channels turn by frame; -1: none turns at all.

    Runs of T tokens share no byte; tokens from F on are REFINED. Strides are c_ of codes, g_ of scales, l_ of
    labels, m_ of centroids, w_ of powers, k_ of channels, f_ and r_ of the refinement's codes and scales, t_
    of the result.
    """
    rows = tl.program_id(0) * b_s + tl.arange(0, b_s)
    tokens = start + rows
    inside = tokens < S
    if A >= 0:
        within = tl.minimum(rows, S - start - 1)  # the tables end where the tokens do
        cos, sin = turns(p_frame, p_place, within, P, first_frame, b_s, D, A)
    for index in tl.static_range(HEADS):
        h = tl.program_id(1) * HEADS + index
        if h < H:
            b = tl.program_id(2).to(tl.int64)
            wide = h.to(tl.int64)
            p_head = p_codes + b * c_b + wide * c_h
            if CODE == "trit":
                level = load_trits(p_head, tokens, inside, T, D, TRITS)
            else:
                level = load_levels(p_head, tokens, inside, b_s, D, BITS, CODE, SLOPE, BEND)
            if REFINED:
                fine, refined = tokens - F, inside & (tokens >= F)
                p_head = p_fine + b * f_b + wide * f_h
                more = load_levels(p_head, fine, refined, b_s, D, FINE_BITS, FINE, SLOPE, BEND)
                # Scales that are not there are 0, and so is what they scale.
                level += scaled(more, p_ratios + b * r_b + wide * r_h, fine, refined, b_s, D, G)
            x = scaled(level, p_scales + b * g_b + wide * g_h, tokens, inside, b_s, D, G)
            if CHANNELS:
                channel = tl.load(p_channels + b * k_b + wide * k_h + tl.arange(0, D))
                x *= channel.to(tl.float32)[None, :]
            for stage in tl.static_range(STAGES):
                p_label = p_labels + stage * l_n + b * l_b + wide * l_h
                label = tl.load(p_label + tokens, mask=inside, other=0).to(tl.int64)
                p_row = p_centroids + stage * m_n + b * m_b + wide * m_h + label[:, None] * D
                centroid = tl.load(p_row + tl.arange(0, D)[None, :], mask=inside[:, None], other=0)
                if E4M3:
                    power = tl.load(p_powers + stage * w_n + b * w_b + wide * w_h).to(tl.float32)
                    x += e4m3_value(centroid.to(tl.int32)) * power
                else:
                    x += centroid.to(tl.float32)
            if A >= 0:
                x = rotate_rows(x, cos, sin, b_s, D)
            o_out = p_out + b * t_b + wide * t_h + rows.to(tl.int64)[:, None] * t_s + tl.arange(0, D)[None, :]
            tl.store(o_out, x.to(p_out.dtype.element_ty), mask=inside[:, None])


@triton.jit
def load_levels(
    p_codes,
    row,
    inside,
    b_s: tl.constexpr,
    D: tl.constexpr,
    BITS: tl.constexpr,
    CODE: tl.constexpr,
    SLOPE: tl.constexpr,
    BEND: tl.constexpr,
):
    """fp32 [b_s, D] levels of the tokens `row`, of codes whose bytes are shared by channels."""
    PLACES: tl.constexpr = 8 // BITS
    BYTES: tl.constexpr = D // PLACES
    o_b = row.to(tl.int64)[:, None] * BYTES + tl.arange(0, BYTES)[None, :]
    packed = tl.load(p_codes + o_b, mask=inside[:, None], other=0).to(tl.int32)
    number = (packed[:, :, None] >> (tl.arange(0, PLACES) * BITS)[None, None, :]) & (2**BITS - 1)
    # The last bits of the float 2 ** 23: cheaper than a conversion.
    number = (tl.reshape(number, (b_s, D)) | 0x4B000000).to(tl.float32, bitcast=True) - 8388608.0
    if CODE == "quad":
        place = number - 1.5  # the two sizes lie on a curve: place times SLOPE + BEND place ** 2
        return place * (SLOPE + BEND * (place * place))
    if CODE == "sign":
        return 2 * number - 1
    return number - (2 ** (BITS - 1) - 1)


@triton.jit
def load_trits(p_codes, tokens, inside, T, D: tl.constexpr, TRITS: tl.constexpr):
    """fp32 [len(tokens), D] levels -1, 0, 1: a digit of the byte that TRITS tokens of a run of T share in
    every channel."""
    within = tokens % T
    row = tokens // T * ((T + TRITS - 1) // TRITS) + within // TRITS
    o_b = row.to(tl.int64)[:, None] * D + tl.arange(0, D)[None, :]
    byte = tl.load(p_codes + o_b, mask=inside[:, None], other=0).to(tl.int32)
    place = within % TRITS
    # 65536 over 1, 3, 9, 27, 81, rounded up: the quotient of every byte is exact.
    inverse = tl.where(
        place == 0,
        65536,
        tl.where(place == 1, 21846, tl.where(place == 2, 7282, tl.where(place == 3, 2428, 810))),
    )
    above = (byte * inverse[:, None]) >> 16
    return (above - 3 * ((above * 21846) >> 16) - 1).to(tl.float32)


@triton.jit
def scaled(level, p_scales, row, inside, b_s: tl.constexpr, D: tl.constexpr, G: tl.constexpr):
    """level fp32 [b_s, D] times the scale of its group of G channels."""
    o_g = row.to(tl.int64)[:, None] * (D // G) + tl.arange(0, D // G)[None, :]
    scale = e4m3_value(tl.load(p_scales + o_g, mask=inside[:, None], other=0).to(tl.int32))
    return tl.reshape(tl.reshape(level, (b_s, D // G, G)) * scale[:, :, None], (b_s, D))
