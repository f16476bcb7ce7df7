"""Attention over one slice of the history, with the log-sum-exp that merges it with other slices.

Fused kernels of torch and flash-attn return the log-sum-exp of every query's scores; `reference.py`
computes it in plain torch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qvg.ops.attention.names import AttentionName
from qvg.ops.attention.reference import Partial, merge, partial_attention_reference
from qvg.ops.kernels import or_reference, use_kernels

__all__ = ["Partial", "Total", "merge", "partial_attention", "partial_attention_reference"]


def partial_attention(q: Tensor, k: Tensor, v: Tensor, name: AttentionName) -> Partial:
    """Returns the attention of q [B, H, Q, D] over k, v [B, H, S, D], all of one dtype, by attention `name`.

    Scores are scaled by D ** -0.5.
    """
    if name == "cpu-flash":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)
    elif name == "cuda-flash":
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v)[:2]
    elif name == "cudnn":
        out, lse = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True)[:2]
        lse = lse.reshape(q.shape[:3])
    elif name in ("flash-attn-2", "flash-attn-3"):
        from qvg.ops.attention.flash import flash_attention

        return flash_attention(q, k, v, name)
    else:
        return partial_attention_reference(q, k, v)
    return Partial(out, lse)


class Total:
    """Attention over the slices added so far; in FP32 from the second on."""

    def __init__(self, first: Partial | None = None) -> None:
        self._sum = first

    @property
    def empty(self) -> bool:
        return self._sum is None

    @property
    def out(self) -> Tensor:
        """[B, H, Q, D]"""
        assert self._sum is not None
        return self._sum.out

    @property
    def lse(self) -> Tensor:
        """fp32 [B, H, Q]"""
        assert self._sum is not None
        return self._sum.lse

    def add(self, piece: Partial) -> None:
        """Merges the attention of the same queries over other keys."""
        if self._sum is None:
            self._sum = piece
        elif use_kernels(piece.out, piece.out.shape[-1]):
            from qvg.ops.attention.triton import merge as kernel

            before = self._sum
            self._sum = or_reference(lambda: kernel(before, piece), lambda: _merged(before, piece))
        else:
            self._sum = _merged(self._sum, piece)


def _merged(total: Partial, piece: Partial) -> Partial:
    return merge(Partial(total.out.float(), total.lse), piece)
