"""Residuals in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from qvg.ops.finite import cleaned
from qvg.ops.groups import quantize_groups
from qvg.ops.kmeans import Clusters, assigned
from qvg.ops.pack import unpack
from qvg.ops.pack.reference import FINE, Code

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
    run: int | None = None,
) -> tuple[Tensor, Tensor]:
    """x: [B, H, S, D], finite or with a `limit`, minus the centroids of all stages, as `quantize_groups`.

    labels: uint8 [N, B, H, S]; centroids: bf16 [N, B, H, K, D]; channels: bf16 [B, H, D], powers of two that
    the residual is divided by -> codes uint8 (see `pack`), scales e4m3 [B, H, S, D / group]. Tokens of
    different runs of `run` (None: S) share no byte.
    """
    residual = _scaled(_residual(x, labels, centroids, limit), channels)
    codes, scales = quantize_groups(residual.unflatten(2, (-1, run or x.shape[2])), group, code)
    return codes.flatten(2, 3), scales.flatten(2, 3)


def refine_reference(
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
    """What `quantize_residual_reference` lost, in units of its scales, as "quad": codes uint8, scales e4m3.

    `codes` and `scales` are what it gave; the other arguments are its own.
    """
    residual = _scaled(_residual(x, labels, centroids, limit), channels)
    group = x.shape[3] // scales.shape[3]
    stored = scales.float()
    inverse = torch.where(stored > 0, 1 / stored, 0.0).unsqueeze(-1)
    units = (residual.unflatten(3, (-1, group)) * inverse).flatten(3)
    levels = unpack(codes, code, torch.float32, 0, x.shape[2], run)
    # Nothing is known of a group whose scale is zero: what is lost of it stays lost.
    lost = torch.where(inverse > 0, (units - levels).unflatten(3, (-1, group)), 0.0).flatten(3)
    return quantize_groups(lost, group, FINE)


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


def _scaled(residual: Tensor, channels: Tensor | None) -> Tensor:
    return residual if channels is None else residual / channels.unsqueeze(2)


def _residual(x: Tensor, labels: Tensor, centroids: Tensor, limit: Tensor | None) -> Tensor:
    """fp32 [B, H, S, D]: x minus the centroids of all stages."""
    residual = cleaned(x, limit)
    for stage in range(len(labels)):
        residual = residual - assigned(Clusters(labels[stage], centroids[stage]))
    return residual
