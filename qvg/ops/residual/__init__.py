"""What is left of tokens without their centroids: subtracted, or at once quantized."""

from __future__ import annotations

from torch import Tensor

from qvg.ops.kernels import or_reference, use_kernels
from qvg.ops.kmeans import Clusters
from qvg.ops.pack.reference import Code
from qvg.ops.residual.reference import (
    channel_scales_reference,
    quantize_residual_reference,
    refine_reference,
    subtract_reference,
)

__all__ = [
    "channel_scales",
    "channel_scales_reference",
    "quantize_residual",
    "quantize_residual_reference",
    "refine",
    "refine_reference",
    "subtract",
    "subtract_reference",
]


def subtract(x: Tensor, clusters: Clusters, limit: Tensor | None = None) -> Tensor:
    """See `subtract_reference`; from the kernel the result is BF16, which is enough to cluster."""
    if use_kernels(x, x.shape[-1]):
        from qvg.ops.residual.triton import subtract as kernel

        return or_reference(
            lambda: kernel(x, clusters, limit), lambda: subtract_reference(x, clusters, limit).bfloat16()
        )
    return subtract_reference(x, clusters, limit)


def quantize_residual(
    x: Tensor,
    labels: Tensor,
    centroids: Tensor,
    group: int,
    code: Code,
    limit: Tensor | None = None,
    channels: Tensor | None = None,
    run: int | None = None,
) -> tuple[Tensor, Tensor]:
    """See `quantize_residual_reference`."""
    if use_kernels(x, x.shape[-1], group):
        from qvg.ops.residual.triton import quantize_residual as kernel

        return or_reference(
            lambda: kernel(x, labels, centroids, group, code, limit, channels, run),
            lambda: quantize_residual_reference(x, labels, centroids, group, code, limit, channels, run),
        )
    return quantize_residual_reference(x, labels, centroids, group, code, limit, channels, run)


def refine(
    x: Tensor,
    labels: Tensor,
    centroids: Tensor,
    codes: Tensor,
    scales: Tensor,
    code: Code,
    limit: Tensor | None = None,
    channels: Tensor | None = None,
    run: int | None = None,
) -> tuple[Tensor, Tensor]:
    """See `refine_reference`."""
    if use_kernels(x, x.shape[-1], x.shape[-1] // scales.shape[-1]):
        from qvg.ops.residual.triton import refine as kernel

        return or_reference(
            lambda: kernel(x, labels, centroids, codes, scales, code, limit, channels, run),
            lambda: refine_reference(x, labels, centroids, codes, scales, code, limit, channels, run),
        )
    return refine_reference(x, labels, centroids, codes, scales, code, limit, channels, run)


def channel_scales(x: Tensor, labels: Tensor, centroids: Tensor, limit: Tensor | None = None) -> Tensor:
    """See `channel_scales_reference`."""
    if use_kernels(x, x.shape[-1]):
        from qvg.ops.residual.triton import channel_scales as kernel

        return or_reference(
            lambda: kernel(x, labels, centroids, limit),
            lambda: channel_scales_reference(x, labels, centroids, limit),
        )
    return channel_scales_reference(x, labels, centroids, limit)
