"""Where k-means starts, and what becomes of centroids whose content has gone."""

from __future__ import annotations

from torch import Tensor

from qvg.ops.kernels import or_reference, use_kernels
from qvg.ops.seeding.reference import more_centroids_reference, seed_centroids_reference

__all__ = ["more_centroids", "more_centroids_reference", "seed_centroids", "seed_centroids_reference"]


def seed_centroids(
    x: Tensor, count: int, seed: int, start: Tensor | None = None, limit: Tensor | None = None
) -> Tensor:
    """See `seed_centroids_reference`; from the kernels the result is BF16."""
    if use_kernels(x, x.shape[-1]):
        from qvg.ops.seeding.triton import seed_centroids as kernel

        return or_reference(
            lambda: kernel(x, count, seed, start, limit),
            lambda: seed_centroids_reference(x, count, seed, start, limit).bfloat16(),
        )
    return seed_centroids_reference(x, count, seed, start, limit)


def more_centroids(x: Tensor, kept: Tensor, count: int, seed: int, limit: Tensor | None = None) -> Tensor:
    """See `more_centroids_reference`; from the kernels the result is BF16."""
    if use_kernels(x, x.shape[-1]):
        from qvg.ops.seeding.triton import more_centroids as kernel

        return or_reference(
            lambda: kernel(x, kept, count, seed, limit),
            lambda: more_centroids_reference(x, kept, count, seed, limit).bfloat16(),
        )
    return more_centroids_reference(x, kept, count, seed, limit)
