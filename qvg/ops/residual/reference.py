"""Residuals in plain torch."""

from __future__ import annotations

from torch import Tensor

from qvg.ops.finite import cleaned
from qvg.ops.groups import quantize_groups
from qvg.ops.kmeans import Clusters, assigned
from qvg.ops.pack.reference import Code


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
) -> tuple[Tensor, Tensor]:
    """x: [B, H, S, D], finite or with a `limit`, minus the centroids of all stages, as `quantize_groups`.

    labels: uint8 [N, B, H, S]; centroids: bf16 [N, B, H, K, D] -> codes uint8 (see `pack`), scales e4m3
    [B, H, S, D / group].
    """
    residual = cleaned(x, limit)
    for stage in range(len(labels)):
        residual = residual - assigned(Clusters(labels[stage], centroids[stage]))
    return quantize_groups(residual, group, code)
