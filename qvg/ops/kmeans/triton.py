"""k-means on a GPU: distances and sums as tensor-core products of BF16 tokens, sums added in a fixed order.

A round is three launches. `_assign` multiplies tile after tile of tokens by all centroids and keeps the
least score; `_sums` multiplies one-hot labels by tokens, some thousand tokens a program; `_means` adds those
partial sums up in order. Nothing is added atomically: the same input gives the same bits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qvg.ops.kmeans.reference import Clusters, stride_of
from qvg.ops.seeding.triton import seed_centroids
from qvg.ops.triton import load_tokens, rows_contiguous

TOKENS_PER_ASSIGN, TOKENS_PER_SUM = 1024, 1024  # of a program
ASSIGN_TOKENS, SUM_TOKENS, MEANS = 128, 64, 16  # rows of a tile


def kmeans(
    x: Tensor, clusters: int, iterations: int, seed: int, start: Tensor | None, limit: Tensor | None
) -> Clusters:
    """See `kmeans_reference`; between rounds too centroids are rounded to BF16."""
    x = rows_contiguous(x)
    batch, heads, tokens, _ = x.shape
    count = min(clusters, tokens)
    if start is None or iterations:
        centroids = seed_centroids(x, count, seed, start, limit)
    else:
        centroids = start.bfloat16().clone(memory_format=torch.contiguous_format)
    labels = torch.empty(batch, heads, tokens, dtype=torch.uint8, device=x.device)
    stride = stride_of(tokens, count)
    for number in range(iterations):
        some = x[:, :, number % stride :: stride]
        some_labels = (
            labels if stride == 1 else torch.empty(some.shape[:3], dtype=torch.uint8, device=x.device)
        )
        assign(some, centroids, limit, some_labels)
        update(some, some_labels, limit, centroids)
    assign(x, centroids, limit, labels)
    return Clusters(labels, centroids)


def assign(x: Tensor, centroids: Tensor, limit: Tensor | None, labels: Tensor) -> None:
    """Writes the nearest of centroids bf16 [B, H, K, D] of every token of x [B, H, S, D] to labels uint8."""
    batch, heads, tokens, head_dim = x.shape
    count = centroids.shape[2]
    _assign[(triton.cdiv(tokens, TOKENS_PER_ASSIGN), batch * heads)](
        x,
        limit,
        centroids,
        labels,
        tokens,
        heads,
        count,
        *x.stride()[:3],
        head_dim,
        max(16, triton.next_power_of_2(count)),
        limit is not None,
        ASSIGN_TOKENS,
        TOKENS_PER_ASSIGN,
        num_warps=8,
    )


def update(x: Tensor, labels: Tensor, limit: Tensor | None, centroids: Tensor) -> None:
    """Writes the mean of every cluster's tokens over its centroid; an empty one keeps its own."""
    batch, heads, tokens, head_dim = x.shape
    count = centroids.shape[2]
    block = max(16, triton.next_power_of_2(count))
    parts = triton.cdiv(tokens, TOKENS_PER_SUM)
    sums = torch.empty(batch * heads, parts, block, head_dim, dtype=torch.float32, device=x.device)
    sizes = torch.empty(batch * heads, parts, block, dtype=torch.int32, device=x.device)
    _sums[(parts, batch * heads)](
        x,
        limit,
        labels,
        sums,
        sizes,
        tokens,
        heads,
        *x.stride()[:3],
        head_dim,
        block,
        limit is not None,
        SUM_TOKENS,
        TOKENS_PER_SUM,
        num_warps=8,
    )
    _means[(block // MEANS, batch * heads)](
        sums, sizes, centroids, parts, count, head_dim, block, MEANS, num_warps=4
    )


@triton.jit(do_not_specialize=["S", "H", "K"])
def _assign(
    p_x,
    p_limit,
    p_centroids,
    p_labels,
    S,
    H,
    K,
    s_b,
    s_h,
    s_s,
    D: tl.constexpr,
    b_k: tl.constexpr,
    CLEAN: tl.constexpr,
    b_s: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """Grid (parts of TOKENS tokens, heads)."""
    first = tl.program_id(0) * TOKENS
    n = tl.program_id(1)
    o_k = tl.arange(0, b_k)
    o_c = (n * K + o_k).to(tl.int64)[:, None] * D + tl.arange(0, D)[None, :]
    centroids = tl.load(p_centroids + o_c, mask=o_k[:, None] < K, other=0.0)  # [K, D]
    wide = centroids.to(tl.float32)
    half = tl.where(o_k < K, tl.sum(wide * wide, axis=1) * 0.5, float("inf"))
    across = tl.trans(centroids)
    for o_s in range(first, tl.minimum(first + TOKENS, S), b_s):
        rows = o_s + tl.arange(0, b_s)
        x = load_tokens(p_x, p_limit, n, H, rows, S, s_b, s_h, s_s, D, CLEAN).to(tl.bfloat16)
        here = x.to(tl.float32)
        # ||x - c||^2 / 2: not negative, so that its bits are in the order of its size. The last 8 of them
        # make room for the number of the centroid, and one integer minimum finds the nearest.
        score = (half[None, :] + tl.sum(here * here, axis=1)[:, None] * 0.5) - tl.dot(x, across)
        bits = tl.maximum(score, 0.0).to(tl.int32, bitcast=True)
        label = tl.min((bits & -256) | o_k[None, :], axis=1) & 255
        tl.store(p_labels + n.to(tl.int64) * S + rows, label.to(tl.uint8), mask=rows < S)


@triton.jit(do_not_specialize=["S", "H"])
def _sums(
    p_x,
    p_limit,
    p_labels,
    p_sums,
    p_sizes,
    S,
    H,
    s_b,
    s_h,
    s_s,
    D: tl.constexpr,
    b_k: tl.constexpr,
    CLEAN: tl.constexpr,
    b_s: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """Grid (parts of TOKENS tokens, heads); p_sums [n, parts, K, D], p_sizes [n, parts, K]."""
    part = tl.program_id(0)
    n = tl.program_id(1)
    o_k = tl.arange(0, b_k)
    total = tl.zeros((b_k, D), tl.float32)
    size = tl.zeros((b_k,), tl.int32)
    first = part * TOKENS
    for o_s in range(first, tl.minimum(first + TOKENS, S), b_s):
        rows = o_s + tl.arange(0, b_s)
        x = load_tokens(p_x, p_limit, n, H, rows, S, s_b, s_h, s_s, D, CLEAN).to(tl.bfloat16)
        label = tl.load(p_labels + n.to(tl.int64) * S + rows, mask=rows < S, other=0).to(tl.int32)
        label = tl.where(rows < S, label, -1)
        member = o_k[:, None] == label[None, :]  # [K, tokens]
        total = tl.dot(member.to(tl.bfloat16), x, total)
        size += tl.sum(member.to(tl.int32), axis=1)
    slot = n.to(tl.int64) * tl.num_programs(0) + part
    tl.store(p_sums + (slot * b_k + o_k)[:, None] * D + tl.arange(0, D)[None, :], total)
    tl.store(p_sizes + slot * b_k + o_k, size)


@triton.jit(do_not_specialize=["parts", "K"])
def _means(p_sums, p_sizes, p_centroids, parts, K, D: tl.constexpr, b_k: tl.constexpr, b_m: tl.constexpr):
    """Grid (tiles of centroids, heads)."""
    n = tl.program_id(1)
    o_k = tl.program_id(0) * b_m + tl.arange(0, b_m)
    columns = tl.arange(0, D)
    total = tl.zeros((b_m, D), tl.float32)
    size = tl.zeros((b_m,), tl.int32)
    for part in range(parts):
        slot = (n.to(tl.int64) * parts + part) * b_k + o_k
        total += tl.load(p_sums + slot[:, None] * D + columns[None, :])
        size += tl.load(p_sizes + slot)
    mean = total / tl.maximum(size, 1).to(tl.float32)[:, None]
    keep = (o_k < K) & (size > 0)
    o_c = (n * K + o_k).to(tl.int64)[:, None] * D + columns[None, :]
    tl.store(p_centroids + o_c, mean.to(tl.bfloat16), mask=keep[:, None])
