"""The fast Walsh-Hadamard transform in plain torch: log2(D) passes of sums and differences.

A product with the matrix would round a token's sums differently for other numbers of tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qvg.ops.finite import cleaned


def hadamard_reference(x: Tensor, limit: Tensor | None = None) -> Tensor:
    """Returns x [B, H, S, D] times the Hadamard matrix over sqrt(D), in FP32; a `limit` cleans it first.

    The matrix is in natural order and its own inverse. Raises ValueError unless D is a power of two.
    """
    size = x.shape[-1]
    if size < 1 or size & (size - 1):
        raise ValueError(f"D={size} is not a power of two, which the Hadamard rotation needs")
    out, width = cleaned(x, limit) * size**-0.5, 1
    while width < size:
        left, right = out.unflatten(-1, (-1, 2, width)).unbind(-2)
        out = torch.stack([left + right, left - right], dim=-2).flatten(-3)
        width *= 2
    return out
