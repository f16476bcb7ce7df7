"""Placing centroids on a GPU: a program a head and a share to replace, drawing side by side.

See the reference for what is drawn and why; tokens and centroids are rounded to BF16 here, and so are the
distances between tokens. Nothing waits for the device: which share suits a head is chosen there.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from qvg.ops.seeding.reference import REPLACED, SHARES, STEP, sample_size
from qvg.ops.triton import hashed, launch, load_tokens, rows_contiguous

TILE = 64


def seed_centroids(x: Tensor, count: int, seed: int, start: Tensor | None, limit: Tensor | None) -> Tensor:
    """bf16 [B, H, count, D] for x [B, H, S, D]; see the reference."""
    x = rows_contiguous(x)
    batch, heads, tokens, head_dim = x.shape
    if start is not None:
        start = start.bfloat16().contiguous()
        if count < 2 or tokens <= count:
            return start.clone()
    n, size = batch * heads, sample_size(count, tokens)
    tries = 1 if start is None else len(REPLACED)
    block = max(TILE, triton.next_power_of_2(size))
    block_k = max(16, triton.next_power_of_2(count))
    device = x.device
    sample = torch.empty(n, block, head_dim, dtype=torch.bfloat16, device=device)
    between = torch.empty(n, block, block, dtype=torch.bfloat16, device=device)
    gap = torch.empty(n, block, dtype=torch.float32, device=device)
    label = torch.empty(n, block, dtype=torch.int32, device=device)
    order = torch.empty(n, block_k, dtype=torch.int32, device=device)
    near = torch.empty(tries, n, block, dtype=torch.float32, device=device)
    centroids = torch.empty(tries, n, count, head_dim, dtype=torch.bfloat16, device=device)
    missed = torch.empty(tries, n, dtype=torch.float32, device=device)
    tiles = block // TILE
    warm = start is not None
    launch(
        _sample,
        (tiles, n, 1),
        (x, limit, start, sample, gap, label),
        (tokens, heads, count, size, seed),
        (*x.stride()[:3], head_dim, block_k, block, limit is not None, warm, TILE),
        8,
    )
    launch(_between, (tiles, tiles, n), (sample, between), (), (head_dim, block, TILE), 4)
    if warm:
        launch(_rank, (n, 1, 1), (gap, label, order), (size, count), (block_k, block), 8)
        launch(
            _kept,
            (tiles, n, tries),
            (sample, start, order, near, centroids),
            (count,),
            (head_dim, block_k, block, TILE),
            8,
        )
    launch(
        _draw,
        (n, tries, 1),
        (sample, between, order, near, centroids, missed),
        (size, count, 0, seed),
        (head_dim, block_k, block, warm, False, SHARES, STEP),
        8,
    )
    if start is None:
        return centroids.view(batch, heads, count, head_dim)
    best = missed.argmin(dim=0)
    chosen = centroids[best, torch.arange(n, device=x.device)]
    return chosen.view(batch, heads, count, head_dim)


def more_centroids(x: Tensor, kept: Tensor, count: int, seed: int, limit: Tensor | None) -> Tensor:
    """bf16 [B, H, count, D] for x [B, H, S, D]; see the reference."""
    x = rows_contiguous(x)
    batch, heads, tokens, head_dim = x.shape
    placed = kept.shape[2]
    centroids = torch.empty(batch, heads, count, head_dim, dtype=torch.bfloat16, device=x.device)
    centroids[:, :, :placed] = kept
    if count == placed:
        return centroids
    n, size = batch * heads, sample_size(count, tokens)
    block = max(TILE, triton.next_power_of_2(size))
    block_k = max(16, triton.next_power_of_2(count))
    sample = torch.empty(n, block, head_dim, dtype=torch.bfloat16, device=x.device)
    between = torch.empty(n, block, block, dtype=torch.bfloat16, device=x.device)
    near = torch.empty(n, block, dtype=torch.float32, device=x.device)
    missed = torch.empty(n, dtype=torch.float32, device=x.device)
    tiles = block // TILE
    launch(
        _sample,
        (tiles, n, 1),
        (x, limit, None, sample, None, None),
        (tokens, heads, count, size, seed),
        (*x.stride()[:3], head_dim, block_k, block, limit is not None, False, TILE),
        8,
    )
    launch(_between, (tiles, tiles, n), (sample, between), (), (head_dim, block, TILE), 4)
    launch(
        _near,
        (tiles, n, 1),
        (sample, kept.bfloat16().contiguous(), near),
        (placed,),
        (head_dim, block_k, block, TILE),
        8,
    )
    launch(
        _draw,
        (n, 1, 1),
        (sample, between, None, near, centroids, missed),
        (size, count, placed, seed),
        (head_dim, block_k, block, False, True, SHARES, STEP),
        8,
    )
    return centroids


@triton.jit
def replaced_of(share, K):
    """How many centroids `REPLACED[share]` quarters are."""
    return K * tl.where(share == 3, 4, share) // 4


@triton.jit
def load_centroids(p_centroids, n, K, D: tl.constexpr, b_k: tl.constexpr):
    """bf16 [b_k, D] of head n, and their squared norms, infinite beyond K."""
    o_k = tl.arange(0, b_k)
    o_c = (n * K + o_k).to(tl.int64)[:, None] * D + tl.arange(0, D)[None, :]
    centroids = tl.load(p_centroids + o_c, mask=o_k[:, None] < K, other=0.0)
    wide = centroids.to(tl.float32)
    return centroids, tl.where(o_k < K, tl.sum(wide * wide, axis=1), float("inf"))


@triton.jit(do_not_specialize=["S", "H", "K", "M", "seed"])
def _sample(
    p_x,
    p_limit,
    p_start,
    p_sample,
    p_gap,
    p_label,
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
    """Grid (tiles of sampled tokens, heads): the sample [n, b_m, D], and with WARM which centroid is nearest
    and how much farther the second nearest is, [n, b_m]."""
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
        centroids, norm = load_centroids(p_start, n, K, D, b_k)
        score = norm[None, :] - 2 * tl.dot(x, tl.trans(centroids))
        near, label = tl.min(score, axis=1, return_indices=True)
        others = tl.where(tl.arange(0, b_k)[None, :] == label[:, None], float("inf"), score)
        tl.store(p_gap + slot, tl.min(others, axis=1) - near)
        tl.store(p_label + slot, label)


@triton.jit(do_not_specialize=["M", "K"])
def _rank(p_gap, p_label, p_order, M, K, b_k: tl.constexpr, b_m: tl.constexpr):
    """Grid (heads): how many centroids are worth less, the earlier of equal ones first, [n, b_k]."""
    n = tl.program_id(0).to(tl.int64)
    o_k = tl.arange(0, b_k)
    o_m = tl.arange(0, b_m)
    label = tl.where(o_m < M, tl.load(p_label + n * b_m + o_m), -1)
    gap = tl.where(o_m < M, tl.load(p_gap + n * b_m + o_m), 0.0)
    worth = tl.sum(tl.where(label[None, :] == o_k[:, None], gap[None, :], 0.0), axis=1)
    worth = tl.where(o_k < K, worth, float("inf"))
    earlier = (worth[None, :] == worth[:, None]) & (o_k[None, :] < o_k[:, None])
    less = (worth[None, :] < worth[:, None]) | earlier
    tl.store(p_order + n * b_k + o_k, tl.sum(less.to(tl.int32), axis=1))


@triton.jit(do_not_specialize=["K"])
def _kept(
    p_sample,
    p_start,
    p_order,
    p_near,
    p_centroids,
    K,
    D: tl.constexpr,
    b_k: tl.constexpr,
    b_m: tl.constexpr,
    b_t: tl.constexpr,
):
    """Grid (tiles of sampled tokens, heads, shares): the kept centroids [shares, n, K, D], and the squared
    distances of sampled tokens to the nearest of them, [shares, n, b_m]."""
    n = tl.program_id(1)
    share = tl.program_id(2)
    all_heads = share * tl.num_programs(1) + n
    o_k = tl.arange(0, b_k)
    o_d = tl.arange(0, D)
    keep = tl.load(p_order + n * b_k + o_k) >= replaced_of(share, K)
    centroids, norm = load_centroids(p_start, n, K, D, b_k)
    if tl.program_id(0) == 0:
        o_c = (all_heads * K + o_k).to(tl.int64)[:, None] * D + o_d[None, :]
        tl.store(p_centroids + o_c, centroids, mask=(keep & (o_k < K))[:, None])
    index = tl.program_id(0) * b_t + tl.arange(0, b_t)
    x = tl.load(p_sample + (n * b_m + index).to(tl.int64)[:, None] * D + o_d[None, :])
    near = nearest_of(x, centroids, tl.where(keep, norm, float("inf")))
    tl.store(p_near + all_heads.to(tl.int64) * b_m + index, near)


@triton.jit
def nearest_of(x, centroids, norm):
    """fp32 [len(x)]: squared distances of tokens to the nearest of centroids with squared norms `norm`."""
    here = x.to(tl.float32)
    score = norm[None, :] + tl.sum(here * here, axis=1)[:, None] - 2 * tl.dot(x, tl.trans(centroids))
    return tl.maximum(tl.min(score, axis=1), 0.0)


@triton.jit(do_not_specialize=["K"])
def _near(
    p_sample,
    p_centroids,
    p_near,
    K,
    D: tl.constexpr,
    b_k: tl.constexpr,
    b_m: tl.constexpr,
    b_t: tl.constexpr,
):
    """Grid (tiles of sampled tokens, heads): squared distances to the nearest of K centroids, [n, b_m]."""
    n = tl.program_id(1)
    centroids, norm = load_centroids(p_centroids, n, K, D, b_k)
    slot = n.to(tl.int64) * b_m + tl.program_id(0) * b_t + tl.arange(0, b_t)
    x = tl.load(p_sample + slot[:, None] * D + tl.arange(0, D)[None, :])
    tl.store(p_near + slot, nearest_of(x, centroids, norm))


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


@triton.jit(do_not_specialize=["M", "K", "PLACED", "seed"])
def _draw(
    p_sample,
    p_between,
    p_order,
    p_near,
    p_centroids,
    p_missed,
    M,
    K,
    PLACED,
    seed,
    D: tl.constexpr,
    b_k: tl.constexpr,
    b_m: tl.constexpr,
    WARM: tl.constexpr,
    MORE: tl.constexpr,
    SHARES: tl.constexpr,
    STEP: tl.constexpr,
):
    """Grid (heads, shares): centroids [shares, n, K, D] that are not kept, and what is missed [shares, n].

    With WARM those with the least `p_order` are drawn, as many as the share says; else all after PLACED.
    """
    n = tl.program_id(0).to(tl.int64)
    share = tl.program_id(1)
    all_heads = share * tl.num_programs(0) + n
    o_k = tl.arange(0, b_k)
    o_d = tl.arange(0, D)
    # Row i, column j is sampled token i * SHARES + j: what is drawn at once is from different columns.
    o_m = tl.arange(0, b_m // SHARES)[:, None] * SHARES + tl.arange(0, SHARES)[None, :]
    column = tl.arange(0, SHARES)
    inside = o_m < M
    base = p_centroids + all_heads * K * D
    if WARM:
        order = tl.load(p_order + n * b_k + o_k)
        near = tl.where(inside, tl.load(p_near + all_heads * b_m + o_m), 0.0)
        replaced = replaced_of(share, K)
    else:
        order = o_k - PLACED
        near = tl.where(inside, float("inf"), 0.0)
        if MORE:
            near = tl.where(inside, tl.load(p_near + all_heads * b_m + o_m), 0.0)
        replaced = K - PLACED
    done = 0
    step = 0
    while done < replaced:
        uniform = ((hashed((step + 1) * STEP + o_m, seed) >> 8).to(tl.float32) + 0.5) * 5.9604644775390625e-08
        race = tl.where(near == float("inf"), 1.0, near) / (-tl.log(uniform))
        first, row = tl.max(tl.where(inside, race, -1.0), axis=0, return_indices=True)
        token = row * SHARES + column
        some = tl.minimum(tl.maximum((K - replaced + done) // 8, 1), tl.minimum(SHARES, replaced - done))
        some = tl.minimum(some, M)
        for index in tl.static_range(SHARES):
            if index < some:
                best = tl.argmax(first, axis=0)
                first = tl.where(column == best, -2.0, first)
                one = tl.sum(tl.where(column == best, token, 0), axis=0)
                distance = tl.load(p_between + (n * b_m + one) * b_m + o_m).to(tl.float32)
                near = tl.minimum(near, tl.where(inside & (o_m != one), distance, 0.0))
                slot = tl.sum(tl.where((order == done + index) & (o_k < K), o_k, 0), axis=0)
                goal = tl.load(p_sample + (n * b_m + one) * D + o_d)
                tl.store(base + slot.to(tl.int64) * D + o_d, goal)
        done += some
        step += 1
    missed = tl.sum(tl.sum(tl.where(inside, near, 0.0), axis=1), axis=0) / tl.maximum(M - replaced, 1)
    tl.store(p_missed + share * tl.num_programs(0) + n, missed)
