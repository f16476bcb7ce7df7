"""k-means of the tokens of every head."""

from __future__ import annotations

from torch import Tensor

from qvg.ops.kernels import or_reference, use_kernels
from qvg.ops.kmeans.reference import Clusters, assigned, check_kept, check_start, kmeans_reference

__all__ = ["Clusters", "assigned", "kmeans", "kmeans_reference"]


def kmeans(
    x: Tensor,
    clusters: int,
    iterations: int,
    seed: int,
    start: Tensor | None = None,
    limit: Tensor | None = None,
    kept: Tensor | None = None,
) -> Clusters:
    """See `kmeans_reference`. The kernels compare tokens and centroids that are rounded to BF16."""
    if use_kernels(x, x.shape[-1]):
        from qvg.ops.kmeans.triton import kmeans as kernel

        check_start(x, min(clusters, x.shape[2]), start)
        check_kept(x, clusters, kept)
        return or_reference(
            lambda: kernel(x, clusters, iterations, seed, start, limit, kept),
            lambda: kmeans_reference(x, clusters, iterations, seed, start, limit, kept),
        )
    return kmeans_reference(x, clusters, iterations, seed, start, limit, kept)
