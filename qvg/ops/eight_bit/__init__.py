"""Attention in 8-bit floats over one slice of the history; off by default.

Keys and values are decoded to BF16 and rounded to E4M3, which adds less to the error of attention than the
2-bit encoding did. `triton.py` describes the arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import NamedTuple

import torch
from torch import Tensor

from qvg.ops.attention.reference import Partial, partial_attention_reference
from qvg.ops.card import card_of
from qvg.ops.kernels import or_reference

HEAD_DIMS = (64, 128)
LARGEST = 448.0  # of E4M3
LOG2_E = 1 / log(2.0)


class Query(NamedTuple):
    """Queries in 8 bits, for any number of slices."""

    values: Tensor  # e4m3 [B, H, Q, D]
    scale: Tensor  # fp32 [B, H, Q]; of scores in powers of two


def supports(device: torch.device, head_dim: int) -> str | None:
    """Returns why this cannot be used for `head_dim` channels on `device`; None where it can."""
    if head_dim not in HEAD_DIMS:
        return f"8-bit attention is for heads of {' or '.join(map(str, HEAD_DIMS))} channels, not {head_dim}"
    if device.type not in ("cuda", "meta"):
        return (
            f"8-bit attention needs an NVIDIA GPU of compute capability 9.0 or more; this is a {device.type}"
        )
    capability = card_of(device).capability
    if capability < (9, 0):
        return (
            "8-bit attention needs an NVIDIA GPU of compute capability 9.0 or more; "
            f"{_name_of(device)} has {capability[0]}.{capability[1]}"
        )
    return None


def _name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "this card"


def query(q: Tensor) -> Query:
    """Rounds q [B, H, Q, D] to E4M3 with a scale for each token."""
    wide = q.float()
    most = wide.abs().amax(dim=-1, keepdim=True).clamp_(min=1e-30)
    values = (wide * (LARGEST / most)).to(torch.float8_e4m3fn)
    return Query(values, most.squeeze(-1) * (LOG2_E / (LARGEST * q.shape[-1] ** 0.5)))


def eight_bit_attention(
    q: Query, k: Tensor, v: Tensor, otherwise: Callable[[], Partial] | None = None
) -> Partial:
    """Returns the attention over k, v, bf16 [B, H, S, D] with contiguous channels, in BF16.

    Scores are scaled by D ** -0.5. Where the kernels cannot run here, returns the result of `otherwise`
    (None: of plain torch in 16 bits).
    """
    from qvg.ops.eight_bit.triton import attention

    return or_reference(
        lambda: Partial(*attention(q.values, q.scale, k, v)),
        otherwise or (lambda: partial_attention_reference(as_bf16(q), k, v)),
    )


def as_bf16(q: Query) -> Tensor:
    """Returns the rounded queries, bf16 [B, H, Q, D]."""
    factor = q.scale * (q.values.shape[-1] ** 0.5 / LOG2_E)
    return (q.values.float() * factor.unsqueeze(-1)).bfloat16()
