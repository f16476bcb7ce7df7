"""Rotary positions, applied to keys as they are copied to where attention reads them."""

from __future__ import annotations

from torch import Tensor

from qvg.ops.kernels import or_reference, use_kernels
from qvg.ops.rotate.reference import check_out, rotate_reference
from qvg.rope import Rope

__all__ = ["check_out", "rotate", "rotate_reference"]


def rotate(x: Tensor, rope: Rope | None, first_frame: int = 0, out: Tensor | None = None) -> Tensor:
    """Returns what `rotate_reference` does, by a kernel where one takes x."""
    if rope is not None and use_kernels(x, x.shape[-1]):
        from qvg.ops.rotate.triton import rotate as kernel

        return or_reference(
            lambda: kernel(x, rope, first_frame, out), lambda: rotate_reference(x, rope, first_frame, out)
        )
    return rotate_reference(x, rope, first_frame, out)
