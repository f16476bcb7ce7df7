"""Where k-means starts, and how it leaves a bad start: both look at a sample of the tokens only.

Beginning each span at the last one's centroids (streaming, as in the paper) keeps their mistakes: centroids
that share a cluster stay together while new content goes without. On made-up videos whose content changes
the error doubles within six spans. `relocate` ends that, and makes 2 rounds about as good as 20.
"""

from __future__ import annotations

import torch
from torch import Tensor

CANDIDATES_PER_CLUSTER = 4  # tokens the cold start chooses among
MIN_CANDIDATES = 256
SAMPLE_PER_CLUSTER = 8  # tokens that judge a move
CLUSTERS_PER_MOVE = 8  # one in so many centroids may move each round
MAX_TARGETS = 64  # the worst served tokens of the sample


def draw_centroids(points: Tensor, count: int, seed: int) -> Tensor:
    """points: [n, S, D] -> [n, count, D], k-means++ (Arthur and Vassilvitskii 2007) over some of the tokens.

    A token is drawn with probability proportional to its squared distance to the nearest one drawn before:
    the largest of distance / e, e exponential. All heads share the draws, which costs nothing as their
    distances differ.
    """
    generator = torch.Generator().manual_seed(seed)
    candidates = _sample(points, max(CANDIDATES_PER_CLUSTER * count, MIN_CANDIDATES), generator)
    race = torch.empty(count, candidates.shape[1]).exponential_(generator=generator).to(points.device)
    distances = _distances(candidates, candidates)
    distances.diagonal(dim1=1, dim2=2).zero_()
    heads = torch.arange(len(points), device=points.device)
    nearest = torch.ones_like(distances[:, 0])
    drawn = []
    for step in range(count):
        drawn.append((nearest / race[step]).argmax(dim=-1))
        row = distances[heads, drawn[-1]]
        nearest = torch.minimum(nearest, row) if step else row
    return candidates[heads.unsqueeze(1), torch.stack(drawn, dim=1)]


def relocate(points: Tensor, centroids: Tensor, seed: int) -> Tensor:
    """Moves the centroids that are least missed to tokens where they help more.

    points: [n, S, D]; centroids: [n, K, D], and so is the result.

    What a centroid is worth is how much farther its tokens are from their second nearest; what a token would
    be worth as a centroid is how much nearer the others get. A token does not count its own gain, so outliers
    draw nothing.
    """
    count = centroids.shape[1]
    if count < 2 or points.shape[1] <= count:
        return centroids
    sample = _sample(points, SAMPLE_PER_CLUSTER * count, torch.Generator().manual_seed(seed))
    distances = _distances(sample, centroids)
    nearest, label = distances.min(dim=-1)  # [n, M]
    second = distances.scatter_(2, label.unsqueeze(-1), torch.inf).amin(dim=-1)
    own = label.unsqueeze(-1) == torch.arange(count, device=points.device)
    worth = torch.where(own, (second - nearest).unsqueeze(-1), 0.0).sum(dim=1)  # [n, K]
    least = worth.argsort(dim=-1, stable=True)

    far = nearest.topk(min(count, MAX_TARGETS), dim=-1).indices  # [n, T]
    targets = sample.gather(1, far.unsqueeze(-1).expand(-1, -1, sample.shape[-1]))
    reach = _distances(targets, sample).scatter_(2, far.unsqueeze(-1), torch.inf)  # [n, T, M]
    heads = torch.arange(len(points), device=points.device)
    moved = centroids.clone()
    for move in range(-(-count // CLUSTERS_PER_MOVE)):
        best = (nearest.unsqueeze(1) - reach).clamp_(min=0).sum(dim=-1).max(dim=-1)
        leaving = least[:, move]
        better = best.values > worth[heads, leaving]
        goal = torch.where(better.unsqueeze(-1), targets[heads, best.indices], moved[heads, leaving])
        moved[heads, leaving] = goal
        gained = torch.minimum(nearest, reach[heads, best.indices])
        nearest = torch.where(better.unsqueeze(-1), gained, nearest)
    return moved


def _sample(points: Tensor, limit: int, generator: torch.Generator) -> Tensor:
    """Up to `limit` distinct tokens, the same for every head: [n, M, D]."""
    some = torch.randperm(points.shape[1], generator=generator)[:limit]
    return points[:, some.to(points.device)]


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances [n, A, B] between a [n, A, D] and b [n, B, D]."""
    norms_a, norms_b = a.square().sum(dim=-1), b.square().sum(dim=-1)
    return torch.baddbmm(norms_b.unsqueeze(1), a, b.mT, alpha=-2).add_(norms_a.unsqueeze(2)).clamp_(min=0)
