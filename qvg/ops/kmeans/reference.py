"""k-means in plain torch: the same bits out on every call, and no atomics, so that comparisons repeat.

Sums over a cluster are taken by sorting the tokens by label. Random choices have a generator of their own.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding, embedding_bag

from qvg.ops.kmeans.seeding import draw_centroids, relocate

DISTANCES_PER_CHUNK = 1 << 24  # 64 MiB of FP32 at a time


class Clusters(NamedTuple):
    labels: Tensor  # uint8 [B, H, S]
    centroids: Tensor  # bf16 [B, H, min(K, S), D]


def kmeans(x: Tensor, clusters: int, iterations: int, seed: int, start: Tensor | None = None) -> Clusters:
    """x: fp32 [B, H, S, D], finite, magnitudes up to 2 ** 48. Batch items and heads are clustered separately.

    `start` [B, H, min(clusters, S), D] are centroids to begin with (streaming); without, tokens are drawn as
    k-means++ does, with `seed`. Every round begins by moving the centroids that are least missed. A cluster
    that still gets no token restarts at one of the tokens farthest from their centroids. Labels are those of
    the returned, rounded centroids.
    """
    batch, heads, tokens, head_dim = x.shape
    points = x.reshape(batch * heads, tokens, head_dim).contiguous()
    count = min(clusters, tokens)
    if start is None:
        centroids = draw_centroids(points, count, seed)
    elif start.shape == (batch, heads, count, head_dim):
        centroids = start.reshape(batch * heads, count, head_dim).float()
    else:
        raise ValueError(
            f"start is {tuple(start.shape)}, but these tokens need {(batch, heads, count, head_dim)}"
        )
    for _ in range(iterations):
        centroids = relocate(points, centroids, seed)
        centroids = _update(points, *_assign(points, centroids), count)
    centroids = centroids.bfloat16()
    labels, _ = _assign(points, centroids.float())
    return Clusters(
        labels.to(torch.uint8).view(batch, heads, tokens), centroids.view(batch, heads, count, head_dim)
    )


def assigned(clusters: Clusters, dtype: torch.dtype = torch.float32) -> Tensor:
    """The centroid of every token: [B, H, S, D] in `dtype`."""
    batch, heads, count, head_dim = clusters.centroids.shape
    first = torch.arange(0, batch * heads * count, count, dtype=torch.int32, device=clusters.labels.device)
    rows = clusters.labels.int() + first.view(batch, heads, 1)
    return embedding(rows, clusters.centroids.to(dtype).view(-1, head_dim))


def _assign(points: Tensor, centroids: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centroid of every token and the squared distance to it: int64 and fp32 [n, S]."""
    half_norms = centroids.square().sum(dim=-1).unsqueeze(1) / 2
    step = max(1, DISTANCES_PER_CHUNK // (centroids.shape[0] * centroids.shape[1]))
    labels, distances = [], []
    for chunk in points.split(step, dim=1):
        # ||x - c||^2 / 2 without the term that does not depend on c.
        nearest = torch.baddbmm(half_norms, chunk, centroids.mT, alpha=-1).min(dim=-1)
        labels.append(nearest.indices)
        distances.append(chunk.square().sum(dim=-1) + 2 * nearest.values)
    return torch.cat(labels, dim=1), torch.cat(distances, dim=1)


def _update(points: Tensor, labels: Tensor, distances: Tensor, count: int) -> Tensor:
    """The mean of every cluster's tokens, [n, count, D]; for empty clusters the farthest tokens, in order."""
    heads, _, head_dim = points.shape
    first = torch.arange(0, heads * count, count, device=points.device)
    ordered, order = (labels + first.unsqueeze(1)).flatten().sort(stable=True)
    begins = torch.searchsorted(ordered, torch.arange(heads * count, device=points.device))
    means = embedding_bag(order, points.view(-1, head_dim), begins, mode="mean").view(heads, count, head_dim)
    ends = torch.cat([begins[1:], begins.new_tensor([len(ordered)])])
    empty = (begins == ends).view(heads, count)
    farthest = distances.topk(count, dim=1).indices
    rank = (empty.cumsum(dim=1) - 1).clamp_(min=0)
    restart = points.gather(1, farthest.gather(1, rank).unsqueeze(-1).expand_as(means))
    return torch.where(empty.unsqueeze(-1), restart, means)
