"""Attention over one piece of the history, with what is needed to merge it with other pieces.

torch's fused kernels return the log-sum-exp of every query's scores; `reference.py` computes the same by
hand.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qvg.device import AttentionName
from qvg.ops.attention.reference import Partial, merge, partial_attention_reference

__all__ = ["Partial", "merge", "partial_attention", "partial_attention_reference"]


def partial_attention(q: Tensor, k: Tensor, v: Tensor, name: AttentionName) -> Partial:
    """q: [B, H, Q, D]; k, v: [B, H, S, D], all of one dtype. Scores are scaled by D ** -0.5."""
    if name == "cpu-flash":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    elif name == "cuda-flash":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[:2]
    elif name == "cudnn":
        out, lse = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)[:2]
        lse = lse.reshape(q.shape[:3])
    else:
        return partial_attention_reference(q, k, v)
    return Partial(out, lse)
