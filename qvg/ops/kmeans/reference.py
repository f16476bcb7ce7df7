"""k-means in plain torch: the same bits out on every call, and no atomics, so that comparisons repeat.

Sums over a cluster are taken by sorting the tokens by label. Random choices come from a counter and a seed.
The last round is of all tokens. Those before it look at some tokens a cluster, every stride-th of a long
span: the mean of 32 is known to 3 % of what they scatter.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding, embedding_bag

from qvg.ops.finite import cleaned
from qvg.ops.interrupt import checkpoint
from qvg.ops.seeding.reference import more_centroids_reference, seed_centroids_reference

DISTANCES_PER_CHUNK = 1 << 24  # 64 MiB of FP32 at a time
TOKENS_PER_CLUSTER = 32  # at least, on average, in a round


class Clusters(NamedTuple):
    labels: Tensor  # uint8 [B, H, S]
    centroids: Tensor  # bf16 [B, H, min(K, S), D], or with others that were kept [B, H, K, D]


def kmeans_reference(
    x: Tensor,
    clusters: int,
    iterations: int,
    seed: int,
    start: Tensor | None = None,
    limit: Tensor | None = None,
    kept: Tensor | None = None,
) -> Clusters:
    """x: [B, H, S, D], finite or with a `limit` (see `finite`), magnitudes up to 2 ** 48.

    Batch items and heads are clustered separately. `start` [B, H, min(clusters, S), D] are centroids to begin
    with (streaming): of them those that are least missed move before the first round. Without, tokens are
    drawn as k-means++ does, with `seed`. A cluster that gets no token keeps its centroid. What is returned is
    the last round's: labels, and the means of the tokens that have them. Asks between rounds whether to go on
    (`qvg.ops.interrupt`).

    `kept` bf16 [B, H, K, D] are centroids of tokens that came earlier: they come first and stay as they are.
    Only the `clusters` - K others are drawn and move.
    """
    batch, heads, tokens, head_dim = x.shape
    x = cleaned(x, limit).contiguous()
    count = min(clusters, tokens) if kept is None else clusters
    check_start(x, count, start)
    check_kept(x, clusters, kept)
    points = x.view(batch * heads, tokens, head_dim)
    if kept is not None:
        start = more_centroids_reference(x, kept, count, seed)
    elif start is None or iterations:
        start = seed_centroids_reference(x, count, seed, start)
    centroids = start.reshape(batch * heads, count, head_dim).float()
    stay = 0 if kept is None else kept.shape[2]
    stride = stride_of(tokens, count)
    for number in range(iterations - 1 if count > stay else 0):
        checkpoint()
        some = points[:, number % stride :: stride].contiguous()
        centroids = _update(some, _assign(some, centroids), centroids, stay)
    labels = _assign(points, centroids)
    if iterations:
        centroids = _update(points, labels, centroids, stay)
    return Clusters(
        labels.to(torch.uint8).view(batch, heads, tokens),
        centroids.bfloat16().view(batch, heads, count, head_dim),
    )


def stride_of(tokens: int, count: int) -> int:
    """A round looks at every how manyeth token; the first of them is that of the round's number."""
    return max(1, tokens // (TOKENS_PER_CLUSTER * count))


def check_start(x: Tensor, count: int, start: Tensor | None) -> None:
    """Raises ValueError unless `start` are `count` centroids for every head of x."""
    needed = (*x.shape[:2], count, x.shape[3])
    if start is not None and start.shape != needed:
        raise ValueError(f"start is {tuple(start.shape)}, but these tokens need {needed}")


def check_kept(x: Tensor, count: int, kept: Tensor | None) -> None:
    """Raises ValueError unless `kept` are at most `count` centroids for every head of x."""
    if kept is not None and (
        kept.shape[:2] != x.shape[:2] or kept.shape[3] != x.shape[3] or kept.shape[2] > count
    ):
        raise ValueError(f"kept is {tuple(kept.shape)}, too many or not for tokens {tuple(x.shape)}")


def assigned(clusters: Clusters, dtype: torch.dtype = torch.float32) -> Tensor:
    """The centroid of every token: [B, H, S, D] in `dtype`."""
    batch, heads, count, head_dim = clusters.centroids.shape
    first = torch.arange(0, batch * heads * count, count, dtype=torch.int32, device=clusters.labels.device)
    rows = clusters.labels.int() + first.view(batch, heads, 1)
    return embedding(rows, clusters.centroids.to(dtype).reshape(-1, head_dim))


def _assign(points: Tensor, centroids: Tensor) -> Tensor:
    """The nearest centroid of every token: int64 [n, S]."""
    half_norms = centroids.square().sum(dim=-1).unsqueeze(1) / 2
    step = max(1, DISTANCES_PER_CHUNK // (centroids.shape[0] * centroids.shape[1]))
    # ||x - c||^2 / 2 without the term that does not depend on c.
    labels = [
        torch.baddbmm(half_norms, chunk, centroids.mT, alpha=-1).argmin(dim=-1)
        for chunk in points.split(step, dim=1)
    ]
    return torch.cat(labels, dim=1)


def _update(points: Tensor, labels: Tensor, centroids: Tensor, stay: int) -> Tensor:
    """The mean of every cluster's tokens, [n, K, D]; an empty one, and the first `stay`, keep theirs."""
    heads, count, head_dim = centroids.shape
    if stay == count:
        return centroids
    first = torch.arange(0, heads * count, count, device=points.device)
    ordered, order = (labels + first.unsqueeze(1)).flatten().sort(stable=True)
    begins = torch.searchsorted(ordered, torch.arange(heads * count, device=points.device))
    means = embedding_bag(order, points.view(-1, head_dim), begins, mode="mean").view(heads, count, head_dim)
    ends = torch.cat([begins[1:], begins.new_tensor([len(ordered)])])
    means = torch.where((begins == ends).view(heads, count, 1), centroids, means)
    return torch.cat([centroids[:, :stay], means[:, stay:]], dim=1) if stay else means
