"""Asymmetric quantization of small groups of channels or tokens with an FP8 scale and an FP8 zero point."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qvg.ops.affine.reference import Axis, dequantize_affine_reference, quantize_affine_reference
from qvg.ops.kernels import or_reference, use_kernels
from qvg.ops.pack.reference import Bits
from qvg.rope import Rope

__all__ = [
    "dequantize_affine",
    "dequantize_affine_reference",
    "quantize_affine",
    "quantize_affine_reference",
]


def quantize_affine(
    x: Tensor, group: int, bits: Bits, axis: Axis, limit: Tensor | None = None, run: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """See `quantize_affine_reference`."""
    if x.ndim == 4 and use_kernels(x, x.shape[-1], group):
        from qvg.ops.affine.triton import quantize_affine as kernel

        return or_reference(
            lambda: kernel(x, group, bits, axis, limit, run),
            lambda: quantize_affine_reference(x, group, bits, axis, limit, run),
        )
    return quantize_affine_reference(x, group, bits, axis, limit, run)


def dequantize_affine(
    codes: Tensor,
    scales: Tensor,
    zeros: Tensor,
    group: int,
    bits: Bits,
    axis: Axis,
    dtype: torch.dtype,
    start: int = 0,
    *,
    run: int | None = None,
    rope: Rope | None = None,
    first_frame: int = 0,
    out: Tensor | None = None,
) -> Tensor:
    """See `dequantize_affine_reference`."""
    encoded = (codes, scales, zeros, group, bits, axis, dtype, start)
    place: dict[str, Any] = {"run": run, "rope": rope, "first_frame": first_frame, "out": out}
    if codes.ndim == 4 and use_kernels(codes, codes.shape[-1] * 8 // bits, group) and start < codes.shape[2]:
        from qvg.ops.affine.triton import dequantize_affine as kernel

        return or_reference(
            lambda: kernel(*encoded, **place), lambda: dequantize_affine_reference(*encoded, **place)
        )
    return dequantize_affine_reference(*encoded, **place)
