"""Residuals in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from qvg.ops.finite import cleaned
from qvg.ops.groups import quantize_groups
from qvg.ops.kmeans import Clusters, assigned
from qvg.ops.pack.reference import Code

FLOOR = 64


def subtract_reference(x: Tensor, clusters: Clusters, limit: Tensor | None = None) -> Tensor:
    """fp32 [B, H, S, D]: x [B, H, S, D], finite or with a `limit`, minus the centroid of every token."""
    return cleaned(x, limit) - assigned(clusters)


def quantize_residual_reference(
    x: Tensor,
    labels: Tensor,
    centroids: Tensor,
    group: int,
    code: Code,
    limit: Tensor | None = None,
    channels: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """x: [B, H, S, D], finite or with a `limit`, minus the centroids of all stages, as `quantize_groups`.

    labels: uint8 [N, B, H, S]; centroids: bf16 [N, B, H, K, D]; channels: bf16 [B, H, D], powers of two that
    the residual is divided by -> codes uint8 (see `pack`), scales e4m3 [B, H, S, D / group].
    """
    residual = _residual(x, labels, centroids, limit)
    if channels is not None:
        residual = residual / channels.unsqueeze(2)
    return quantize_groups(residual, group, code)


def channel_scales_reference(
    x: Tensor, labels: Tensor, centroids: Tensor, limit: Tensor | None = None
) -> Tensor:
    """bf16 [B, H, D]: the root mean square of every channel's residual, as the nearest power of two.

    Arguments are those of `quantize_residual_reference`.
    """
    return nearest_powers(_residual(x, labels, centroids, limit).square().sum(dim=2), x.shape[2])


def nearest_powers(energy: Tensor, tokens: int) -> Tensor:
    """bf16 powers of two nearest to the root of `energy` [.., D], summed over `tokens`, by ratio.

    A channel counts as no narrower than a FLOOR-th of its head: what comes later may be wider. It is 1 where
    all channels are zero.
    """
    mean = energy.double() / tokens
    mean = torch.maximum(mean, mean.mean(dim=-1, keepdim=True) / FLOOR**2)
    fraction, exponent = torch.frexp(mean.sqrt())  # fraction from 0.5 to 1
    exponent = exponent - (fraction < 0.5**0.5).int()
    return torch.where(mean > 0, torch.ldexp(torch.ones_like(mean), exponent), 1.0).bfloat16()


def _residual(x: Tensor, labels: Tensor, centroids: Tensor, limit: Tensor | None) -> Tensor:
    """fp32 [B, H, S, D]: x minus the centroids of all stages."""
    residual = cleaned(x, limit)
    for stage in range(len(labels)):
        residual = residual - assigned(Clusters(labels[stage], centroids[stage]))
    return residual
