"""Removal of NaN and infinities, the first step of every codec but BF16; it does not wait for the device."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from qvg.ops.finite.reference import MAX_MAGNITUDE, cleaned, largest_reference
from qvg.ops.kernels import or_reference, use_kernels

__all__ = ["MAX_MAGNITUDE", "Finite", "cleaned", "finite", "largest", "largest_reference"]


class Finite(NamedTuple):
    """Finite `values`; with a `limit` they are finite only after `cleaned`, which their readers apply."""

    values: Tensor  # [B, H, S, D]
    limit: Tensor | None  # fp32 [B, H]


def finite(x: Tensor) -> Finite:
    """Replaces NaN in x [B, H, S, D] by 0 and infinities by the head's largest magnitude, at most 2 ** 48."""
    if use_kernels(x, x.shape[-1]):
        return Finite(x, largest(x))
    values = x.float()
    # False for NaN too. Nearly always true, and one pass; on a GPU it would wait for the device.
    if not x.is_cuda and bool(values.abs().amax() <= MAX_MAGNITUDE):
        return Finite(values, None)
    return Finite(cleaned(values, largest_reference(values)), None)


def largest(x: Tensor) -> Tensor:
    """Returns fp32 [B, H]: the largest finite magnitude of every head of x [B, H, S, D], at most 2 ** 48."""
    if use_kernels(x, x.shape[-1]):
        from qvg.ops.finite.triton import largest as kernel

        return or_reference(lambda: kernel(x), lambda: largest_reference(x))
    return largest_reference(x)
