"""The fast Walsh-Hadamard transform in plain torch: log2(D) passes of sums and differences.

Not one product with the matrix: the sum of a token would then depend on how many others there are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qvg.ops.finite import cleaned


def hadamard_reference(x: Tensor, limit: Tensor | None = None) -> Tensor:
    """x: [B, H, S, D], with a `limit` cleaned first -> fp32, times the Hadamard matrix over sqrt(D).

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
