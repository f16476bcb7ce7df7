"""Residuals on a GPU: read a token and its centroids, write its codes; the residual stays in registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qvg.ops.card import card_of
from qvg.ops.groups.reference import BOUNDARY, SIZES
from qvg.ops.kmeans.reference import Clusters
from qvg.ops.pack.reference import FINE, TRITS, Code, bits_of, rows_of
from qvg.ops.reconstruct.triton import CURVE, load_levels, load_trits
from qvg.ops.residual.reference import nearest_powers
from qvg.ops.triton import (
    e4m3_bits,
    e4m3_value,
    inverse_or_zero,
    launch,
    load_tokens,
    rounded,
    rows_contiguous,
    tiles,
)

BLOCK = 64  # rows of codes of a program
BLOCK_TRITS = 8  # five tokens each
BLOCK_FINE = 32  # tokens of a program that refines
TOGETHER = 4  # programs of a multiprocessor that add up squares


def subtract(x: Tensor, clusters: Clusters, limit: Tensor | None = None) -> Tensor:
    """bf16 [B, H, S, D]; see the reference."""
    x = rows_contiguous(x)
    batch, heads, tokens, head_dim = x.shape
    out = torch.empty(x.shape, dtype=torch.bfloat16, device=x.device)
    launch(
        _subtract,
        (tiles(tokens, BLOCK), batch * heads, 1),
        (x, limit, clusters.labels, clusters.centroids, out),
        (tokens, heads, clusters.centroids.shape[2]),
        (*x.stride()[:3], head_dim, limit is not None, BLOCK),
        4,
    )
    return out


def quantize_residual(
    x: Tensor,
    labels: Tensor,
    centroids: Tensor,
    group: int,
    code: Code,
    limit: Tensor | None = None,
    channels: Tensor | None = None,
    run: int | None = None,
) -> tuple[Tensor, Tensor]:
    """See the reference."""
    x = rows_contiguous(x)
    batch, heads, tokens, head_dim = x.shape
    together = TRITS if code == "trit" else 1
    bits = 8 if code == "trit" else bits_of(code)
    rows = rows_of(tokens, run, code)
    block = BLOCK_TRITS if code == "trit" else BLOCK
    codes = torch.empty(batch, heads, rows, head_dim * bits // 8, dtype=torch.uint8, device=x.device)
    scales = torch.empty(batch, heads, tokens, head_dim // group, dtype=torch.uint8, device=x.device)
    inner, outer = SIZES.get(code, (0.0, 0.0))
    launch(
        _quantize,
        (tiles(rows, block), batch * heads, 1),
        (x, limit, labels.contiguous(), centroids.contiguous(), _dense(channels), codes, scales),
        (tokens, rows, run or tokens, heads, centroids.shape[3]),
        (
            *x.stride()[:3],
            head_dim,
            group,
            bits,
            len(labels),
            code,
            limit is not None,
            channels is not None,
            block,
            together,
            inner,
            outer,
            BOUNDARY.get(code, 0.0),
        ),
        4,
    )
    return codes, scales.view(torch.float8_e4m3fn)


def refine(
    x: Tensor,
    labels: Tensor,
    centroids: Tensor,
    codes: Tensor,
    scales: Tensor,
    code: Code,
    limit: Tensor | None = None,
    channels: Tensor | None = None,
    run: int | None = None,
) -> tuple[Tensor, Tensor]:
    """See the reference."""
    x = rows_contiguous(x)
    batch, heads, tokens, head_dim = x.shape
    group = head_dim // scales.shape[-1]
    bits = bits_of(FINE)
    fine = torch.empty(batch, heads, tokens, head_dim * bits // 8, dtype=torch.uint8, device=x.device)
    ratios = torch.empty(batch, heads, tokens, head_dim // group, dtype=torch.uint8, device=x.device)
    launch(
        _refine,
        (tiles(tokens, BLOCK_FINE), batch * heads, 1),
        (
            x,
            limit,
            labels.contiguous(),
            centroids.contiguous(),
            _dense(channels),
            codes.contiguous(),
            scales.view(torch.uint8).contiguous(),
            fine,
            ratios,
        ),
        (tokens, codes.shape[2], run or tokens, heads, centroids.shape[3]),
        (
            *x.stride()[:3],
            head_dim,
            group,
            8 if code == "trit" else bits_of(code),
            len(labels),
            code,
            limit is not None,
            channels is not None,
            BLOCK_FINE,
            TRITS,
            *CURVE,
            bits,
            FINE,
            *SIZES[FINE],
            BOUNDARY[FINE],
        ),
        4,
    )
    return fine, ratios.view(torch.float8_e4m3fn)


def channel_scales(x: Tensor, labels: Tensor, centroids: Tensor, limit: Tensor | None = None) -> Tensor:
    """See the reference. Squares are added up in a fixed order."""
    x = rows_contiguous(x)
    batch, heads, tokens, head_dim = x.shape
    n = batch * heads
    parts = max(1, min(TOGETHER * card_of(x.device).processors // n, tiles(tokens, 4 * BLOCK)))
    share = BLOCK * tiles(tokens, BLOCK * parts)
    parts = tiles(tokens, share)
    energy = torch.empty(batch, heads, parts, head_dim, dtype=torch.float32, device=x.device)
    launch(
        _energy,
        (parts, n, 1),
        (x, limit, labels.contiguous(), centroids.contiguous(), energy),
        (tokens, share, heads, centroids.shape[3]),
        (*x.stride()[:3], head_dim, len(labels), limit is not None, BLOCK),
        4,
    )
    return nearest_powers(energy.sum(dim=2), tokens)


def _dense(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.contiguous()


@triton.jit
def minus_centroids(x, p_labels, p_centroids, n, N, rows, S, K, D: tl.constexpr, STAGES: tl.constexpr):
    """x fp32 [len(rows), D] minus the centroids of all stages; N heads in all."""
    for stage in tl.static_range(STAGES):
        head = (stage * N + n).to(tl.int64)
        label = tl.load(p_labels + head * S + rows, mask=rows < S, other=0).to(tl.int64)
        o_c = (head * K + label)[:, None] * D + tl.arange(0, D)[None, :]
        x -= tl.load(p_centroids + o_c, mask=rows[:, None] < S, other=0.0).to(tl.float32)
    return x


@triton.jit(do_not_specialize=["S", "H", "K"])
def _subtract(
    p_x,
    p_limit,
    p_labels,
    p_centroids,
    p_out,
    S,
    H,
    K,
    s_b,
    s_h,
    s_s,
    D: tl.constexpr,
    CLEAN: tl.constexpr,
    b_s: tl.constexpr,
):
    """Grid (tiles of tokens, heads)."""
    n = tl.program_id(1)
    rows = tl.program_id(0) * b_s + tl.arange(0, b_s)
    x = load_tokens(p_x, p_limit, n, H, rows, S, s_b, s_h, s_s, D, CLEAN)
    x = minus_centroids(x, p_labels, p_centroids, n, tl.num_programs(1), rows, S, K, D, 1)
    o_x = (n.to(tl.int64) * S + rows)[:, None] * D + tl.arange(0, D)[None, :]
    tl.store(p_out + o_x, x.to(tl.bfloat16), mask=rows[:, None] < S)


@triton.jit(do_not_specialize=["S", "R", "T", "H", "K"])
def _quantize(
    p_x,
    p_limit,
    p_labels,
    p_centroids,
    p_channels,
    p_codes,
    p_scales,
    S,
    R,
    T,
    H,
    K,
    s_b,
    s_h,
    s_s,
    D: tl.constexpr,
    G: tl.constexpr,
    BITS: tl.constexpr,
    STAGES: tl.constexpr,
    CODE: tl.constexpr,
    CLEAN: tl.constexpr,
    CHANNELS: tl.constexpr,
    b_s: tl.constexpr,
    TOGETHER: tl.constexpr,
    INNER: tl.constexpr,
    OUTER: tl.constexpr,
    BOUNDARY: tl.constexpr,
):
    """Grid (tiles of rows of codes, heads). TOGETHER tokens of a run of T share a row of codes."""
    n = tl.program_id(1)
    o_r = tl.program_id(0) * b_s + tl.arange(0, b_s)
    row = n.to(tl.int64) * R + o_r
    if CHANNELS:
        channel = tl.load(p_channels + n.to(tl.int64) * D + tl.arange(0, D)).to(tl.float32)
        narrower = inverse_or_zero(channel)  # of a power of two: exact
    digits = tl.zeros((b_s, D), tl.int32)
    for place in tl.static_range(TOGETHER):
        if TOGETHER == 1:
            rows = o_r
        else:
            run = (T + TOGETHER - 1) // TOGETHER
            within = o_r % run * TOGETHER + place
            rows = tl.where(within < T, o_r // run * T + within, S)
        x = load_tokens(p_x, p_limit, n, H, rows, S, s_b, s_h, s_s, D, CLEAN)
        x = minus_centroids(x, p_labels, p_centroids, n, tl.num_programs(1), rows, S, K, D, STAGES)
        if CHANNELS:
            x = x * narrower[None, :]
        groups = tl.reshape(x, (b_s, D // G, G))
        if (CODE == "int2") | (CODE == "int4"):
            number, scale = absmax_numbers(groups, BITS)
        else:
            number, scale = unbiased_numbers(groups, CODE, G, INNER, OUTER, BOUNDARY)
        o_g = (n.to(tl.int64) * S + rows)[:, None] * (D // G) + tl.arange(0, D // G)[None, :]
        tl.store(p_scales + o_g, scale.to(tl.uint8), mask=rows[:, None] < S)
        if TOGETHER == 1:
            store_codes(p_codes, row, o_r < R, number, b_s, D, BITS)
        else:
            # The last bytes may lack tokens: their digits are 0, as padding is in the reference.
            flat = tl.where(rows[:, None] < S, tl.reshape(number, (b_s, D)), 0)
            digits += flat * (3**place)
    if TOGETHER > 1:
        o_c = row[:, None] * D + tl.arange(0, D)[None, :]
        tl.store(p_codes + o_c, digits.to(tl.uint8), mask=o_r[:, None] < R)


@triton.jit
def store_codes(p_codes, row, mask, number, b_s: tl.constexpr, D: tl.constexpr, BITS: tl.constexpr):
    """Packs code numbers int32 of b_s tokens of D channels, the first channel in a byte's lowest bits."""
    PLACES: tl.constexpr = 8 // BITS
    BYTES: tl.constexpr = D // PLACES
    places = tl.reshape(number, (b_s, BYTES, PLACES)) << (tl.arange(0, PLACES) * BITS)[None, None, :]
    o_b = row[:, None] * BYTES + tl.arange(0, BYTES)[None, :]
    tl.store(p_codes + o_b, tl.sum(places, axis=2).to(tl.uint8), mask=mask[:, None])


@triton.jit
def absmax_numbers(groups, BITS: tl.constexpr):
    """Code numbers int32 as `groups` [.., G] and E4M3 patterns int32 [..] of the scales."""
    TOP: tl.constexpr = 2 ** (BITS - 1) - 1
    most = tl.max(tl.abs(groups), axis=2)
    scale = e4m3_bits(tl.math.div_rn(most, tl.full(most.shape, TOP, tl.float32)))
    inverse = inverse_or_zero(e4m3_value(scale))
    level = rounded(tl.minimum(tl.maximum(groups * inverse[:, :, None], -TOP), TOP))
    return level.to(tl.int32) + TOP, scale


@triton.jit
def unbiased_numbers(
    groups,
    CODE: tl.constexpr,
    G: tl.constexpr,
    INNER: tl.constexpr,
    OUTER: tl.constexpr,
    BOUNDARY: tl.constexpr,
):
    """As `absmax_numbers`, of codes with two sizes and the scale that keeps a group's square."""
    size = tl.abs(groups)
    energy = tl.sum(size * size, axis=2)
    far = size >= (BOUNDARY * tl.sqrt_rn(energy / G))[:, :, None]
    product = tl.sum(size * tl.where(far, OUTER, INNER), axis=2)
    known = product > 0
    scale = e4m3_bits(tl.where(known, tl.math.div_rn(energy, tl.where(known, product, 1.0)), 0.0))
    positive = groups >= 0
    if CODE == "sign":
        return positive.to(tl.int32), scale
    out = far.to(tl.int32)
    if CODE == "trit":
        return tl.where(positive, 1 + out, 1 - out), scale
    return tl.where(positive, 2 + out, 1 - out), scale


@triton.jit(do_not_specialize=["S", "TOKENS", "H", "K"])
def _energy(
    p_x,
    p_limit,
    p_labels,
    p_centroids,
    p_energy,
    S,
    TOKENS,
    H,
    K,
    s_b,
    s_h,
    s_s,
    D: tl.constexpr,
    STAGES: tl.constexpr,
    CLEAN: tl.constexpr,
    b_s: tl.constexpr,
):
    """Grid (parts of TOKENS tokens, heads): sums of squares of the residual, fp32 [n, parts, D]."""
    n = tl.program_id(1)
    first = tl.program_id(0) * TOKENS
    total = tl.zeros((D,), tl.float32)
    for o_s in range(first, tl.minimum(first + TOKENS, S), b_s):
        rows = o_s + tl.arange(0, b_s)
        x = load_tokens(p_x, p_limit, n, H, rows, S, s_b, s_h, s_s, D, CLEAN)
        x = minus_centroids(x, p_labels, p_centroids, n, tl.num_programs(1), rows, S, K, D, STAGES)
        total += tl.sum(x * x, axis=0)
    slot = n.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    tl.store(p_energy + slot * D + tl.arange(0, D), total)


@triton.jit(do_not_specialize=["S", "R", "T", "H", "K"])
def _refine(
    p_x,
    p_limit,
    p_labels,
    p_centroids,
    p_channels,
    p_codes,
    p_scales,
    p_fine,
    p_ratios,
    S,
    R,
    T,
    H,
    K,
    s_b,
    s_h,
    s_s,
    D: tl.constexpr,
    G: tl.constexpr,
    BITS: tl.constexpr,
    STAGES: tl.constexpr,
    CODE: tl.constexpr,
    CLEAN: tl.constexpr,
    CHANNELS: tl.constexpr,
    b_s: tl.constexpr,
    TRITS: tl.constexpr,
    SLOPE: tl.constexpr,
    BEND: tl.constexpr,
    FINE_BITS: tl.constexpr,
    FINE: tl.constexpr,
    INNER: tl.constexpr,
    OUTER: tl.constexpr,
    BOUNDARY: tl.constexpr,
):
    """Grid (tiles of tokens, heads). Codes take R rows a head, of runs of T tokens."""
    n = tl.program_id(1)
    wide = n.to(tl.int64)
    rows = tl.program_id(0) * b_s + tl.arange(0, b_s)
    inside = rows < S
    x = load_tokens(p_x, p_limit, n, H, rows, S, s_b, s_h, s_s, D, CLEAN)
    x = minus_centroids(x, p_labels, p_centroids, n, tl.num_programs(1), rows, S, K, D, STAGES)
    if CHANNELS:
        channel = tl.load(p_channels + wide * D + tl.arange(0, D)).to(tl.float32)
        x = x * inverse_or_zero(channel)[None, :]  # of a power of two: exact
    if CODE == "trit":
        level = load_trits(p_codes + wide * R * D, rows, inside, T, D, TRITS)
    else:
        p_head = p_codes + wide * R * (D * BITS // 8)
        level = load_levels(p_head, rows, inside, b_s, D, BITS, CODE, SLOPE, BEND)
    o_g = (wide * S + rows)[:, None] * (D // G) + tl.arange(0, D // G)[None, :]
    scale = e4m3_value(tl.load(p_scales + o_g, mask=inside[:, None], other=0).to(tl.int32))
    inverse = inverse_or_zero(scale)[:, :, None]
    groups = tl.reshape(x, (b_s, D // G, G)) * inverse - tl.reshape(level, (b_s, D // G, G))
    number, ratio = unbiased_numbers(tl.where(inverse > 0, groups, 0.0), FINE, G, INNER, OUTER, BOUNDARY)
    tl.store(p_ratios + o_g, ratio.to(tl.uint8), mask=inside[:, None])
    store_codes(p_fine, wide * S + rows, inside, number, b_s, D, FINE_BITS)
