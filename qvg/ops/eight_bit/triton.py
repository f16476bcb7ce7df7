"""Attention in E4M3 over one piece of the history, on GPUs that multiply 8-bit floats.

Queries have a scale each, keys and values one for TILE tokens, probabilities are up to 2 ** 8. Two things
make it work over a long history. Hopper adds E4M3 products with 14 bits, and cuts off the rest: over 280,000
keys that loses 70 % of a component all values share, so every tile's products are added up apart and in FP32.
And a thread holds other columns of the scores than it needs of the probabilities: values lie in memory in the
order in which it has them, and nothing need be exchanged.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from qvg.ops.card import card_of
from qvg.ops.triton import launch, tiles

TILE = 128  # tokens that share a scale
QUERIES, WARPS = 64, 4


def attention(q: Tensor, scale: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """q: e4m3 [B, H, Q, D], scale: fp32 [B, H, Q] -> bf16 [B, H, Q, D] and fp32 [B, H, Q]; see `__init__`."""
    batch, heads, queries, head_dim = q.shape
    tokens, n, device = k.shape[2], batch * heads, k.device
    count = tiles(tokens, TILE)
    keys = torch.empty(n, count * TILE, head_dim, dtype=torch.float8_e4m3fn, device=device)
    values = torch.empty(n, count * head_dim, TILE, dtype=torch.float8_e4m3fn, device=device)
    scales = torch.empty(2, n, count, dtype=torch.float32, device=device)
    launch(
        _to_eight_bits,
        (count, n, 1),
        (k, v, keys, values, scales),
        (tokens, heads),
        (*k.stride()[:3], *v.stride()[:3], head_dim, TILE),
        8,
    )
    stages = card_of(device).tiles(head_dim).attended_stages
    out = torch.empty(batch, heads, queries, head_dim, dtype=torch.bfloat16, device=device)
    lse = torch.empty(batch, heads, queries, dtype=torch.float32, device=device)
    launch(
        _attend,
        (tiles(queries, QUERIES), n, 1),
        (
            q,
            scale,
            TensorDescriptor.from_tensor(keys, [1, TILE, head_dim]),
            TensorDescriptor.from_tensor(values, [1, head_dim, TILE]),
            scales,
            out,
            lse,
        ),
        (queries, tokens, heads),
        (*q.stride()[:3], *scale.stride()[:2], head_dim, TILE, QUERIES, stages),
        WARPS,
    )
    return out, lse


@triton.jit(do_not_specialize=["S", "H"])
def _to_eight_bits(
    p_k,
    p_v,
    p_keys,
    p_values,
    p_scales,
    S,
    H,
    k_b,
    k_h,
    k_s,
    v_b,
    v_h,
    v_s,
    D: tl.constexpr,
    TILE: tl.constexpr,
):
    """Grid (tiles, heads): keys [n, tiles * TILE, D], values [n, tiles * D, TILE], scales [2, n, tiles]."""
    tile = tl.program_id(0)
    n = tl.program_id(1)
    b = (n // H).to(tl.int64)
    h = (n % H).to(tl.int64)
    slot = n.to(tl.int64) * tl.num_programs(0) + tile
    o_n = tl.arange(0, TILE)
    o_d = tl.arange(0, D)
    rows = tile * TILE + o_n
    p_k += b * k_b + h * k_h
    k = tl.load(p_k + rows.to(tl.int64)[:, None] * k_s + o_d[None, :], mask=rows[:, None] < S, other=0.0)
    k, scale = to_e4m3(k)
    tl.store(p_scales + slot, scale)
    tl.store(p_keys + (slot * TILE + o_n)[:, None] * D + o_d[None, :], k)
    # Of 32 tokens that a thread multiplies at once it has the scores of 2 t and 2 t + 1 of every 8, and needs
    # the probabilities of 4 t to 4 t + 3 of every 16: place 4 t + 2 j + c is token 8 j + 2 t + c.
    place = o_n % 16
    rows = tile * TILE + (o_n - place) + (place // 2) % 2 * 8 + place // 4 * 2 + place % 2
    p_v += b * v_b + h * v_h
    v = tl.load(p_v + rows.to(tl.int64)[None, :] * v_s + o_d[:, None], mask=rows[None, :] < S, other=0.0)
    v, scale = to_e4m3(v)
    tl.store(p_scales + tl.num_programs(1).to(tl.int64) * tl.num_programs(0) + slot, scale)
    tl.store(p_values + (slot * D + o_d)[:, None] * TILE + o_n[None, :], v)


@triton.jit
def to_e4m3(x):
    """A tile, and what its numbers are times."""
    x = x.to(tl.float32)
    most = tl.maximum(tl.max(tl.max(tl.abs(x), axis=1), axis=0), 1e-30)
    return (x * (448.0 / most)).to(tl.float8e4nv), most / 448.0


@triton.jit(do_not_specialize=["Q", "S", "H"])
def _attend(
    p_q,
    p_q_scale,
    keys,
    values,
    p_scales,
    p_out,
    p_lse,
    Q,
    S,
    H,
    q_b,
    q_h,
    q_q,
    s_b,
    s_h,
    D: tl.constexpr,
    TILE: tl.constexpr,
    b_q: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Grid (tiles of queries, heads)."""
    n = tl.program_id(1)
    b = (n // H).to(tl.int64)
    h = (n % H).to(tl.int64)
    rows = tl.program_id(0) * b_q + tl.arange(0, b_q)
    o_d = tl.arange(0, D)
    o_q = b * q_b + h * q_h + rows.to(tl.int64)[:, None] * q_q + o_d[None, :]
    q = tl.load(p_q + o_q, mask=rows[:, None] < Q, other=0.0)
    scale = tl.load(p_q_scale + b * s_b + h * s_h + rows, mask=rows < Q, other=1.0)
    tiles = (S + TILE - 1) // TILE
    p_k_scale = p_scales + n.to(tl.int64) * tiles
    p_v_scale = p_k_scale + tl.num_programs(1).to(tl.int64) * tiles
    most = tl.full((b_q,), -1e30, tl.float32)
    total = tl.zeros((b_q,), tl.float32)
    out = tl.zeros((b_q, D), tl.float32)
    for tile in tl.range(0, S // TILE, num_stages=STAGES):
        k, k_scale, v, v_scale = load_tile(keys, values, p_k_scale, p_v_scale, n, tile, TILE, D)
        score, factor = tl.dot(q, tl.trans(k)), scale * k_scale
        out, total, most = add_tile(score, factor, v, v_scale, out, total, most, b_q, TILE)
    if S % TILE > 0:
        k, k_scale, v, v_scale = load_tile(keys, values, p_k_scale, p_v_scale, n, tiles - 1, TILE, D)
        score, factor = tl.dot(q, tl.trans(k)), scale * k_scale
        inside = (tiles - 1) * TILE + tl.arange(0, TILE) < S
        score = tl.where(inside[None, :], score, float("-inf"))
        out, total, most = add_tile(score, factor, v, v_scale, out, total, most, b_q, TILE)
    o_out = (n.to(tl.int64) * Q + rows)[:, None] * D + o_d[None, :]
    tl.store(p_out + o_out, (out / total[:, None]).to(tl.bfloat16), mask=rows[:, None] < Q)
    lse = (most - 8.0 + tl.log2(total)) * 0.6931471805599453
    tl.store(p_lse + n.to(tl.int64) * Q + rows, lse, mask=rows < Q)


@triton.jit
def load_tile(keys, values, p_k_scale, p_v_scale, n, tile, TILE: tl.constexpr, D: tl.constexpr):
    k = tl.reshape(keys.load([n, tile * TILE, 0]), (TILE, D))
    v = tl.reshape(values.load([n, tile * D, 0]), (D, TILE))
    return k, tl.load(p_k_scale + tile), v, tl.load(p_v_scale + tile)


@triton.jit
def add_tile(score, factor, v, v_scale, out, total, most, b_q: tl.constexpr, TILE: tl.constexpr):
    """`out` and `total` are times 2 ** (8 - most); `most` is the largest of score times factor."""
    higher = tl.maximum(most, tl.max(score, axis=1) * factor)
    p = tl.exp2(score * factor[:, None] - (higher - 8.0)[:, None])
    shrink = tl.exp2(most - higher)
    total = total * shrink + tl.sum(p, axis=1)
    p = tl.reshape(p.to(tl.float8e4nv), (b_q, TILE // 16, 2, 4, 2))
    p = tl.reshape(tl.permute(p, (0, 1, 3, 2, 4)), (b_q, TILE))
    return out * shrink[:, None] + tl.dot(p, tl.trans(v)) * v_scale, total, higher
