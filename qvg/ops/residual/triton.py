"""Residuals on a GPU: read a token and its centroids, write its codes; the residual stays in registers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qvg.ops.groups.reference import CANDIDATES
from qvg.ops.kmeans.reference import Clusters
from qvg.ops.pack.reference import LLOYD_MAX, Bits, Code
from qvg.ops.triton import e4m3_bits, e4m3_value, inverse_or_zero, load_tokens, rounded, rows_contiguous

BLOCK = 64  # tokens of a program


def subtract(x: Tensor, clusters: Clusters, limit: Tensor | None = None) -> Tensor:
    """bf16 [B, H, S, D]; see the reference."""
    x = rows_contiguous(x)
    batch, heads, tokens, head_dim = x.shape
    out = torch.empty(x.shape, dtype=torch.bfloat16, device=x.device)
    _subtract[(triton.cdiv(tokens, BLOCK), batch * heads)](
        x,
        limit,
        clusters.labels,
        clusters.centroids,
        out,
        tokens,
        heads,
        clusters.centroids.shape[2],
        *x.stride()[:3],
        head_dim,
        limit is not None,
        BLOCK,
        num_warps=4,
    )
    return out


def quantise_residual(
    x: Tensor,
    labels: Tensor,
    centroids: Tensor,
    group: int,
    bits: Bits,
    code: Code = "absmax",
    limit: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See the reference."""
    x = rows_contiguous(x)
    batch, heads, tokens, head_dim = x.shape
    codes = torch.empty(batch, heads, tokens, head_dim * bits // 8, dtype=torch.uint8, device=x.device)
    scales = torch.empty(batch, heads, tokens, head_dim // group, dtype=torch.uint8, device=x.device)
    _quantise[(triton.cdiv(tokens, BLOCK), batch * heads)](
        x,
        limit,
        labels.contiguous(),
        centroids.contiguous(),
        codes,
        scales,
        tokens,
        heads,
        centroids.shape[3],
        *x.stride()[:3],
        head_dim,
        group,
        bits,
        len(labels),
        code == "lloyd-max",
        limit is not None,
        BLOCK,
        *LLOYD_MAX,
        CANDIDATES.start,
        CANDIDATES.stop,
        num_warps=4,
    )
    return codes, scales.view(torch.float8_e4m3fn)


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


@triton.jit(do_not_specialize=["S", "H", "K"])
def _quantise(
    p_x,
    p_limit,
    p_labels,
    p_centroids,
    p_codes,
    p_scales,
    S,
    H,
    K,
    s_b,
    s_h,
    s_s,
    D: tl.constexpr,
    G: tl.constexpr,
    BITS: tl.constexpr,
    STAGES: tl.constexpr,
    FOUR_LEVELS: tl.constexpr,
    CLEAN: tl.constexpr,
    b_s: tl.constexpr,
    INNER: tl.constexpr,
    OUTER: tl.constexpr,
    FIRST: tl.constexpr,
    STOP: tl.constexpr,
):
    """Grid (tiles of tokens, heads)."""
    n = tl.program_id(1)
    rows = tl.program_id(0) * b_s + tl.arange(0, b_s)
    x = load_tokens(p_x, p_limit, n, H, rows, S, s_b, s_h, s_s, D, CLEAN)
    x = minus_centroids(x, p_labels, p_centroids, n, tl.num_programs(1), rows, S, K, D, STAGES)
    groups = tl.reshape(x, (b_s, D // G, G))
    if FOUR_LEVELS:
        code, scale = four_levels(groups, G, INNER, OUTER, FIRST, STOP)
    else:
        code, scale = absmax_levels(groups, BITS)
    row = n.to(tl.int64) * S + rows
    o_g = tl.arange(0, D // G)
    tl.store(p_scales + row[:, None] * (D // G) + o_g[None, :], scale.to(tl.uint8), mask=rows[:, None] < S)
    store_codes(p_codes, row, rows < S, code, b_s, D, BITS)


@triton.jit
def store_codes(p_codes, row, mask, code, b_s: tl.constexpr, D: tl.constexpr, BITS: tl.constexpr):
    """Packs int32 codes of b_s tokens of D channels, the first channel in the lowest bits of a byte."""
    PLACES: tl.constexpr = 8 // BITS
    BYTES: tl.constexpr = D // PLACES
    places = tl.reshape(code, (b_s, BYTES, PLACES)) << (tl.arange(0, PLACES) * BITS)[None, None, :]
    o_b = row[:, None] * BYTES + tl.arange(0, BYTES)[None, :]
    tl.store(p_codes + o_b, tl.sum(places, axis=2).to(tl.uint8), mask=mask[:, None])


@triton.jit
def absmax_levels(groups, BITS: tl.constexpr):
    """Codes int32 as `groups` [.., G] and E4M3 patterns int32 [..] of the scales."""
    TOP: tl.constexpr = 2 ** (BITS - 1) - 1
    most = tl.max(tl.abs(groups), axis=2)
    scale = e4m3_bits(tl.math.div_rn(most, tl.full(most.shape, TOP, tl.float32)))
    inverse = inverse_or_zero(e4m3_value(scale))
    level = rounded(tl.minimum(tl.maximum(groups * inverse[:, :, None], -TOP), TOP))
    return level.to(tl.int32) + TOP, scale


@triton.jit
def four_levels(
    groups,
    G: tl.constexpr,
    INNER: tl.constexpr,
    OUTER: tl.constexpr,
    FIRST: tl.constexpr,
    STOP: tl.constexpr,
):
    """As `absmax_levels`: levels +-INNER and +-OUTER, of the scales near the rms the one of least error."""
    BOUNDARY: tl.constexpr = (INNER + OUTER) / 2
    size = tl.abs(groups)
    start = e4m3_bits(tl.sqrt_rn(tl.sum(size * size, axis=2) / G))
    total = tl.sum(size, axis=2)
    best = start
    least = tl.full(start.shape, float("inf"), tl.float32)
    for offset in tl.static_range(STOP - FIRST):
        pattern = tl.minimum(tl.maximum(start + (offset + FIRST), 0), 126)
        scale = e4m3_value(pattern)
        beyond = tl.sum(tl.maximum(size - (BOUNDARY * scale)[:, :, None], 0.0), axis=2)
        error = scale * (INNER * (G * INNER * scale - 2 * total) - 2 * (OUTER - INNER) * beyond)
        best = tl.where(error < least, pattern, best)
        least = tl.minimum(error, least)
    far = size >= (BOUNDARY * e4m3_value(best))[:, :, None]
    return tl.where(groups < 0, tl.where(far, 0, 1), tl.where(far, 3, 2)), best
