"""Placing centroids on a GPU: three launches, the last with a program a head that draws until nothing pays.

See the reference for what is drawn and why; tokens and centroids are rounded to BF16 here, and so are the
distances between tokens. How many draws a head takes is known to its program only: the host never waits.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qvg.ops.seeding.reference import DRAWS_PER_CENTROID, MAX_FAILURES, STEP, sample_size
from qvg.ops.triton import hashed, load_tokens, rows_contiguous

TILE = 64


def seed_centroids(x: Tensor, count: int, seed: int, start: Tensor | None, limit: Tensor | None) -> Tensor:
    """bf16 [B, H, count, D] for x [B, H, S, D]; see the reference."""
    x = rows_contiguous(x)
    batch, heads, tokens, head_dim = x.shape
    if start is not None:
        centroids = start.bfloat16().clone(memory_format=torch.contiguous_format)
        if count < 2 or tokens <= count:
            return centroids
    else:
        centroids = torch.empty(batch, heads, count, head_dim, dtype=torch.bfloat16, device=x.device)
    n, size = batch * heads, sample_size(count, tokens)
    block = max(TILE, triton.next_power_of_2(size))
    block_k = max(16, triton.next_power_of_2(count))
    sample = torch.empty(n, block, head_dim, dtype=torch.bfloat16, device=x.device)
    distance = torch.empty(2, n, block, dtype=torch.float32, device=x.device)
    owner = torch.empty(2, n, block, dtype=torch.int32, device=x.device)
    between = torch.empty(n, block, block, dtype=torch.bfloat16, device=x.device)
    tiles = block // TILE
    _sample[(tiles, n)](
        x,
        limit,
        centroids,
        sample,
        distance,
        owner,
        tokens,
        heads,
        count,
        size,
        seed,
        *x.stride()[:3],
        head_dim,
        block_k,
        block,
        limit is not None,
        start is not None,
        TILE,
        num_warps=8,
    )
    _between[(tiles, tiles, n)](sample, between, head_dim, block, TILE, num_warps=4)
    _draw[(n,)](
        sample,
        between,
        distance,
        owner,
        centroids,
        size,
        count,
        seed,
        head_dim,
        block_k,
        block,
        start is not None,
        MAX_FAILURES,
        DRAWS_PER_CENTROID,
        STEP,
        num_warps=16,
    )
    return centroids


@triton.jit(do_not_specialize=["S", "H", "K", "M", "seed"])
def _sample(
    p_x,
    p_limit,
    p_centroids,
    p_sample,
    p_distance,
    p_owner,
    S,
    H,
    K,
    M,
    seed,
    s_b,
    s_h,
    s_s,
    D: tl.constexpr,
    b_k: tl.constexpr,
    b_m: tl.constexpr,
    CLEAN: tl.constexpr,
    WARM: tl.constexpr,
    b_t: tl.constexpr,
):
    """Grid (tiles of sampled tokens, heads): the sample [n, b_m, D], and with WARM the squared distances to
    the nearest and second nearest centroid and which they are, [2, n, b_m]."""
    n = tl.program_id(1)
    index = tl.program_id(0) * b_t + tl.arange(0, b_t)
    part = index.to(tl.int64)
    low = (part * S) // M
    width = tl.maximum(((part + 1) * S) // M - low, 1)
    rows = tl.where(index < M, low + hashed(index, seed).to(tl.int64) % width, S)
    x = load_tokens(p_x, p_limit, n, H, rows, S, s_b, s_h, s_s, D, CLEAN).to(tl.bfloat16)
    slot = n.to(tl.int64) * b_m + index
    tl.store(p_sample + slot[:, None] * D + tl.arange(0, D)[None, :], x)
    if WARM:
        o_k = tl.arange(0, b_k)
        o_c = (n * K + o_k).to(tl.int64)[:, None] * D + tl.arange(0, D)[None, :]
        centroids = tl.load(p_centroids + o_c, mask=o_k[:, None] < K, other=0.0)
        wide = centroids.to(tl.float32)
        norm = tl.where(o_k < K, tl.sum(wide * wide, axis=1), float("inf"))
        here = x.to(tl.float32)
        score = norm[None, :] - 2 * tl.dot(x, tl.trans(centroids)) + tl.sum(here * here, axis=1)[:, None]
        near, label = tl.min(score, axis=1, return_indices=True)
        score = tl.where(o_k[None, :] == label[:, None], float("inf"), score)
        second, heir = tl.min(score, axis=1, return_indices=True)
        all_heads = tl.num_programs(1).to(tl.int64) * b_m
        tl.store(p_distance + slot, tl.maximum(near, 0.0))
        tl.store(p_distance + all_heads + slot, tl.maximum(second, 0.0))
        tl.store(p_owner + slot, label)
        tl.store(p_owner + all_heads + slot, heir)


@triton.jit
def _between(p_sample, p_between, D: tl.constexpr, b_m: tl.constexpr, b_t: tl.constexpr):
    """Grid (tiles, tiles, heads): squared distances between sampled tokens, bf16 [n, b_m, b_m]."""
    n = tl.program_id(2).to(tl.int64)
    rows = n * b_m + tl.program_id(0) * b_t + tl.arange(0, b_t)
    columns = tl.program_id(1) * b_t + tl.arange(0, b_t)
    o_d = tl.arange(0, D)
    a = tl.load(p_sample + rows[:, None] * D + o_d[None, :])
    b = tl.load(p_sample + (n * b_m + columns)[:, None] * D + o_d[None, :])
    norm_a = tl.sum(a.to(tl.float32) * a.to(tl.float32), axis=1)
    norm_b = tl.sum(b.to(tl.float32) * b.to(tl.float32), axis=1)
    squared = norm_a[:, None] + norm_b[None, :] - 2 * tl.dot(a, tl.trans(b))
    tl.store(p_between + rows[:, None] * b_m + columns[None, :], tl.maximum(squared, 0.0).to(tl.bfloat16))


@triton.jit(do_not_specialize=["M", "K", "seed"])
def _draw(
    p_sample,
    p_between,
    p_distance,
    p_owner,
    p_centroids,
    M,
    K,
    seed,
    D: tl.constexpr,
    b_k: tl.constexpr,
    b_m: tl.constexpr,
    WARM: tl.constexpr,
    FAILURES: tl.constexpr,
    DRAWS: tl.constexpr,
    STEP: tl.constexpr,
):
    """Grid (heads)."""
    n = tl.program_id(0).to(tl.int64)
    o_m = tl.arange(0, b_m)
    o_k = tl.arange(0, b_k)
    o_d = tl.arange(0, D)
    if WARM:
        slot = n * b_m + o_m
        all_heads = tl.num_programs(0).to(tl.int64) * b_m
        near = tl.where(o_m < M, tl.load(p_distance + slot), 0.0)
        second = tl.where(o_m < M, tl.load(p_distance + all_heads + slot), 0.0)
        label = tl.where(o_m < M, tl.load(p_owner + slot), -1)
        heir = tl.load(p_owner + all_heads + slot)
        draws = DRAWS * K
    else:
        near = tl.full((b_m,), float("inf"), tl.float32)
        second = near
        label = tl.zeros((b_m,), tl.int32)
        heir = label
        draws = K
    drawn = o_m >= M
    failures = 0
    step = 0
    leaving = 0
    least = float("inf")
    if WARM:
        worth = tl.sum(tl.where(label[None, :] == o_k[:, None], (second - near)[None, :], 0.0), axis=1)
        least, leaving = tl.min(tl.where(o_k < K, worth, float("inf")), axis=0, return_indices=True)
    while (step < draws) & (failures < FAILURES):
        uniform = ((hashed((step + 1) * STEP + o_m, seed) >> 8).to(tl.float32) + 0.5) * 5.9604644775390625e-08
        weight = near
        if not WARM:
            weight = tl.where(step == 0, 1.0, near)
        race = tl.where(drawn, -1.0, weight / (-tl.log(uniform)))
        token = tl.argmax(race, axis=0)
        drawn = drawn | (o_m == token)
        distance = tl.load(p_between + (n * b_m + token) * b_m + o_m).to(tl.float32)
        distance = tl.where(o_m == token, 0.0, distance)
        better = True
        if WARM:
            gain = tl.where(o_m < M, tl.maximum(near - distance, 0.0), 0.0)
            own = tl.sum(tl.where(o_m == token, near, 0.0), axis=0)
            better = (tl.sum(tl.where(o_m == token, 0.0, gain), axis=0) >= least) & (own > 0)
        else:
            leaving = step
        if better:
            if WARM:
                # The leaving centroid's tokens go to their second nearest; their third is not known.
                left = label == leaving
                near = tl.where(left, second, near)
                label = tl.where(left, heir, label)
                second = tl.where(left, float("inf"), second)
            closer = distance < near
            next_closer = (distance < second) & (distance >= near)
            second = tl.where(closer, near, tl.where(next_closer, distance, second))
            heir = tl.where(closer, label, tl.where(next_closer, leaving, heir))
            near = tl.where(closer, distance, near)
            label = tl.where(closer, leaving, label)
            goal = tl.load(p_sample + (n * b_m + token) * D + o_d)
            tl.store(p_centroids + (n * K + leaving) * D + o_d, goal)
            if WARM:
                label = tl.where(o_m < M, label, -1)
                gap = tl.where(o_m < M, second - near, 0.0)
                worth = tl.sum(tl.where(label[None, :] == o_k[:, None], gap[None, :], 0.0), axis=1)
                least, leaving = tl.min(tl.where(o_k < K, worth, float("inf")), axis=0, return_indices=True)
            failures = 0
        else:
            failures += 1
        step += 1
