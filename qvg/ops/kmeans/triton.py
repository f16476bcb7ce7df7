"""k-means on a GPU: distances and sums as tensor-core products of BF16 tokens, sums added in a fixed order.

A round is three launches. `_assign` multiplies tile after tile of tokens by all centroids and keeps the least
score; `_sums` multiplies one-hot labels by tokens; `_means` adds the programs' sums up in order. Nothing is
added atomically: the same input gives the same bits on the same card. The first two in one kernel would
read tokens once, but a program then needs all registers of a multiprocessor and waits alone: it took longer.

256 centroids of 128 channels fill 64 KiB of shared memory, with tokens on their way 112 KiB: more than most
cards have. There `_nearest` keeps a tile of tokens instead and goes through tiles of centroids.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qvg.ops.card import card_of
from qvg.ops.kmeans.reference import Clusters, stride_of
from qvg.ops.seeding.triton import more_centroids, seed_centroids
from qvg.ops.triton import launch, load_tokens, rows_contiguous, tiles

TILE = 64  # tokens a program looks at together
TOGETHER = 2  # programs of a multiprocessor, one at work while the other waits for tokens
CHANNELS = 1 << 14  # of the tokens that a program of `_nearest` keeps, at most
MEANS = 16  # centroids of a program that adds up


def kmeans(
    x: Tensor,
    clusters: int,
    iterations: int,
    seed: int,
    start: Tensor | None,
    limit: Tensor | None,
    kept: Tensor | None = None,
) -> Clusters:
    """See `kmeans_reference`; between rounds too centroids are rounded to BF16."""
    x = rows_contiguous(x)
    tokens = x.shape[2]
    count = min(clusters, tokens) if kept is None else clusters
    stay = 0 if kept is None else kept.shape[2]
    if kept is not None:
        centroids = more_centroids(x, kept, count, seed, limit)
    elif start is None or iterations:
        centroids = seed_centroids(x, count, seed, start, limit)
    else:
        centroids = start.bfloat16().clone(memory_format=torch.contiguous_format)
    stride = stride_of(tokens, count)
    for number in range(iterations - 1 if count > stay else 0):
        some = x[:, :, number % stride :: stride]
        update(some, assign(some, centroids, limit), limit, centroids, stay)
    labels = assign(x, centroids, limit)
    if iterations and count > stay:
        update(x, labels, limit, centroids, stay)
    return Clusters(labels, centroids)


def assign(x: Tensor, centroids: Tensor, limit: Tensor | None) -> Tensor:
    """uint8 [B, H, S]: the nearest of centroids bf16 [B, H, K, D] of every token of x [B, H, S, D]."""
    batch, heads, tokens, head_dim = x.shape
    count = centroids.shape[2]
    labels = torch.empty(batch, heads, tokens, dtype=torch.uint8, device=x.device)
    block = max(16, triton.next_power_of_2(count))
    nearest = card_of(x.device).tiles(head_dim).nearest
    if nearest is None:
        parts, share = _divided(tokens, batch * heads, x.device)
        launch(
            _assign,
            (parts, batch * heads, 1),
            (x, limit, centroids, labels),
            (tokens, share, heads, count),
            (*x.stride()[:3], head_dim, block, limit is not None, TILE),
            4,
        )
        return labels
    many, some, stages = nearest
    many = min(many, CHANNELS // head_dim)
    launch(
        _nearest,
        (tiles(tokens, many), batch * heads, 1),
        (x, limit, centroids, labels),
        (tokens, heads, count),
        (*x.stride()[:3], head_dim, block, limit is not None, many, min(some, block)),
        4,
        stages,
    )
    return labels


def update(x: Tensor, labels: Tensor, limit: Tensor | None, centroids: Tensor, stay: int = 0) -> None:
    """Writes the mean of every cluster's tokens over its centroid; an empty one, and the first `stay`, keep
    their own."""
    batch, heads, tokens, head_dim = x.shape
    n, count = batch * heads, centroids.shape[2]
    block = max(16, triton.next_power_of_2(count))
    shape = card_of(x.device).tiles(head_dim)
    summed = min(shape.summed, block)
    parts, share = _divided(tokens, n * (block // summed), x.device)
    sums = torch.empty(n, parts, block, head_dim, dtype=torch.float32, device=x.device)
    sizes = torch.empty(n, parts, block, dtype=torch.int32, device=x.device)
    launch(
        _sums,
        (block // summed, parts, n),
        (x, limit, labels, sums, sizes),
        (tokens, share, heads),
        (*x.stride()[:3], head_dim, block, summed, limit is not None, TILE),
        4,
        shape.summed_stages,
    )
    launch(
        _means,
        (tiles(block, MEANS), n, 1),
        (sums, sizes, centroids),
        (parts, count, stay),
        (head_dim, block, MEANS),
        4,
    )


def _divided(tokens: int, programs: int, device: torch.device) -> tuple[int, int]:
    """Into how many parts tokens are divided so that all `programs` of each run at once, and its tokens."""
    parts = max(1, min(TOGETHER * card_of(device).processors // programs, tiles(tokens, 4 * TILE)))
    share = TILE * tiles(tokens, TILE * parts)
    return tiles(tokens, share), share


@triton.jit(do_not_specialize=["S", "TOKENS", "H", "K"])
def _assign(
    p_x,
    p_limit,
    p_centroids,
    p_labels,
    S,
    TOKENS,
    H,
    K,
    s_b,
    s_h,
    s_s,
    D: tl.constexpr,
    b_k: tl.constexpr,
    CLEAN: tl.constexpr,
    b_s: tl.constexpr,
):
    """Grid (parts of TOKENS tokens, heads)."""
    first = tl.program_id(0) * TOKENS
    n = tl.program_id(1)
    o_k = tl.arange(0, b_k)
    o_c = (n * K + o_k).to(tl.int64)[:, None] * D + tl.arange(0, D)[None, :]
    centroids = tl.load(p_centroids + o_c, mask=o_k[:, None] < K, other=0.0)  # [K, D]
    half = half_norms(centroids, o_k, K)
    across = tl.trans(centroids)
    for o_s in range(first, tl.minimum(first + TOKENS, S), b_s):
        rows = o_s + tl.arange(0, b_s)
        x = load_tokens(p_x, p_limit, n, H, rows, S, s_b, s_h, s_s, D, CLEAN).to(tl.bfloat16)
        label = least_score(x, half_norm(x), half, across, o_k) & 255
        tl.store(p_labels + n.to(tl.int64) * S + rows, label.to(tl.uint8), mask=rows < S)


@triton.jit(do_not_specialize=["S", "H", "K"])
def _nearest(
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
    b_c: tl.constexpr,
):
    """Grid (tiles of tokens, heads): as `_assign`, b_c centroids at a time.

    The least of all scores is that of the nearest centroid whichever tile it is in: labels are the same.
    """
    n = tl.program_id(1)
    rows = tl.program_id(0) * b_s + tl.arange(0, b_s)
    x = load_tokens(p_x, p_limit, n, H, rows, S, s_b, s_h, s_s, D, CLEAN).to(tl.bfloat16)
    norm = half_norm(x)
    least = tl.full((b_s,), 0x7FFFFFFF, tl.int32)
    for first in range(0, b_k, b_c):
        o_k = first + tl.arange(0, b_c)
        o_c = (n * K + o_k).to(tl.int64)[:, None] * D + tl.arange(0, D)[None, :]
        centroids = tl.load(p_centroids + o_c, mask=o_k[:, None] < K, other=0.0)
        half = half_norms(centroids, o_k, K)
        least = tl.minimum(least, least_score(x, norm, half, tl.trans(centroids), o_k))
    tl.store(p_labels + n.to(tl.int64) * S + rows, (least & 255).to(tl.uint8), mask=rows < S)


@triton.jit
def half_norms(centroids, o_k, K):
    """fp32 [len(o_k)]: half of the squared norms of centroids, infinite for those that there are not."""
    wide = centroids.to(tl.float32)
    return tl.where(o_k < K, tl.sum(wide * wide, axis=1) * 0.5, float("inf"))


@triton.jit
def half_norm(x):
    """fp32 [len(x)]: half of the squared norms of tokens, and a little more."""
    here = x.to(tl.float32)
    return tl.sum(here * here, axis=1) * 0.505 + 1e-30


@triton.jit
def least_score(x, norm, half, across, o_k):
    """int32 [len(x)]: the least score of tokens, and in its last 8 bits the number of its centroid."""
    # ||x - c||^2 / 2 and a little more, so that it is positive and its bits are in the order of its size.
    # The last 8 of them make room for the number of the centroid: one integer minimum finds the nearest.
    score = (half[None, :] + norm[:, None]) - tl.dot(x, across)
    return tl.min((score.to(tl.int32, bitcast=True) & -256) | o_k[None, :], axis=1)


@triton.jit(do_not_specialize=["S", "TOKENS", "H"])
def _sums(
    p_x,
    p_limit,
    p_labels,
    p_sums,
    p_sizes,
    S,
    TOKENS,
    H,
    s_b,
    s_h,
    s_s,
    D: tl.constexpr,
    b_k: tl.constexpr,
    SUMMED: tl.constexpr,
    CLEAN: tl.constexpr,
    b_s: tl.constexpr,
):
    """Grid (K in SUMMED, parts of TOKENS tokens, heads); p_sums [n, parts, K, D], p_sizes [n, parts, K]."""
    part = tl.program_id(1)
    n = tl.program_id(2)
    o_k = tl.program_id(0) * SUMMED + tl.arange(0, SUMMED)
    total = tl.zeros((SUMMED, D), tl.float32)
    size = tl.zeros((SUMMED, 16), tl.float32)
    ones = tl.full((b_s, 16), 1.0, tl.float32).to(tl.bfloat16)
    first = part * TOKENS
    for o_s in range(first, tl.minimum(first + TOKENS, S), b_s):
        rows = o_s + tl.arange(0, b_s)
        x = load_tokens(p_x, p_limit, n, H, rows, S, s_b, s_h, s_s, D, CLEAN).to(tl.bfloat16)
        label = tl.load(p_labels + n.to(tl.int64) * S + rows, mask=rows < S, other=0).to(tl.int32)
        label = tl.where(rows < S, label, -1)
        member = (o_k[:, None] == label[None, :]).to(tl.bfloat16)  # [SUMMED, tokens]
        total = tl.dot(member, x, total)
        size = tl.dot(member, ones, size)
    slot = (n.to(tl.int64) * tl.num_programs(1) + part) * b_k + o_k
    tl.store(p_sums + slot[:, None] * D + tl.arange(0, D)[None, :], total)
    tl.store(p_sizes + slot, tl.max(size, axis=1).to(tl.int32))


@triton.jit(do_not_specialize=["parts", "K", "STAY"])
def _means(
    p_sums, p_sizes, p_centroids, parts, K, STAY, D: tl.constexpr, b_k: tl.constexpr, b_m: tl.constexpr
):
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
    keep = (o_k >= STAY) & (o_k < K) & (size > 0)
    o_c = (n * K + o_k).to(tl.int64)[:, None] * D + columns[None, :]
    tl.store(p_centroids + o_c, mean.to(tl.bfloat16), mask=keep[:, None])
