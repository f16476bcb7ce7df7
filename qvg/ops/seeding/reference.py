"""Where k-means starts: a few tokens of a span say where centroids are missing.

Beginning each span at the last one's centroids (streaming, as in the paper) keeps their mistakes: centroids
that share a cluster stay together while new content goes without, and after a cut the error is 12 times that
of a fresh start. So the least missed centroids move, as many as pay, to tokens drawn as k-means++ draws them
(Arthur and Vassilvitskii 2007); a cold start is the same with no centroid to lose. Two rounds of k-means then
come within 5 % of ten from a cold start, on made-up videos, also where their content changes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qvg.ops.finite import cleaned

SAMPLE_PER_CLUSTER = 8
MIN_SAMPLE, MAX_SAMPLE = 256, 1024  # tokens of a head that are looked at
MAX_FAILURES = 4  # draws in a row that moved nothing
DRAWS_PER_CENTROID = 2
STEP = 1 << 16  # random numbers of a draw; of them the first MAX_SAMPLE are used
STEPS_AT_ONCE = 32


def seed_centroids_reference(
    x: Tensor, count: int, seed: int, start: Tensor | None = None, limit: Tensor | None = None
) -> Tensor:
    """x: [B, H, S, D], finite or with a `limit`, count <= S -> fp32 [B, H, count, D].

    `start` [B, H, count, D] are centroids to improve; without, all are drawn.

    A token is drawn with probability proportional to its squared distance to the nearest centroid: the
    largest of distance / e, e exponential. What a centroid is worth is how much farther its tokens are from
    their second nearest; what a token would be worth is how much nearer the others get. It does not count its
    own gain, so outliers draw nothing but centroids worth nothing. A head is done when `MAX_FAILURES` draws
    in a row brought less than the centroid worth least. All heads share the random numbers.
    """
    batch, heads, tokens, head_dim = x.shape
    if start is not None and (count < 2 or tokens <= count):
        return start.float()
    size = sample_size(count, tokens)
    sample = cleaned(x[:, :, sample_rows(tokens, size, seed, x.device)], limit).flatten(0, 1)  # [n, M, D]
    norms = sample.square().sum(dim=-1)
    every = torch.arange(batch * heads, device=x.device)
    if start is None:
        centroids = sample.new_empty(batch * heads, count, head_dim)
        near = torch.full_like(norms, torch.inf)
        second, label, heir = near, torch.zeros_like(norms, dtype=torch.int64), torch.zeros_like(norms).long()
    else:
        centroids = start.flatten(0, 1).float().clone()
        two = squared_distances(sample, centroids).topk(2, dim=-1, largest=False)
        (near, second), (label, heir) = two.values.unbind(-1), two.indices.unbind(-1)
    drawn = torch.zeros_like(norms, dtype=torch.bool)
    failures = torch.zeros(batch * heads, dtype=torch.int64, device=x.device)
    races = norms
    for step in range(count if start is None else DRAWS_PER_CENTROID * count):
        if step % STEPS_AT_ONCE == 0:
            races = exponential(step, STEPS_AT_ONCE, size, seed, x.device)
        weight = near if start is not None or step else torch.ones_like(near)
        token = torch.where(drawn, -1.0, weight / races[step % STEPS_AT_ONCE]).argmax(dim=-1)
        drawn[every, token] = True
        goal = sample[every, token]  # [n, D]
        distance = norms + norms[every, token].unsqueeze(1) - 2 * (sample @ goal.unsqueeze(2)).squeeze(2)
        distance.clamp_(min=0)[every, token] = 0
        if start is None:
            leaving, better = torch.full_like(token, step), torch.ones_like(token, dtype=torch.bool)
        else:
            gain = (near - distance).clamp_(min=0)
            own = gain[every, token]
            gain[every, token] = 0
            worth = torch.zeros_like(centroids[..., 0]).scatter_add_(1, label, second - near)
            least, leaving = worth.min(dim=-1)
            better = (gain.sum(dim=-1) >= least) & (own > 0) & (failures < MAX_FAILURES)
            failures = torch.where(better, 0, failures + 1)
            # The leaving centroid's tokens go to their second nearest; their third is not known.
            left = better.unsqueeze(1) & (label == leaving.unsqueeze(1))
            near, label = torch.where(left, second, near), torch.where(left, heir, label)
            second = second.masked_fill(left, torch.inf)
        centroids[every, leaving] = torch.where(better.unsqueeze(1), goal, centroids[every, leaving])
        closer = better.unsqueeze(1) & (distance < near)
        next_closer = better.unsqueeze(1) & ~closer & (distance < second)
        arriving = leaving.unsqueeze(1).expand_as(label)
        second = torch.where(closer, near, torch.where(next_closer, distance, second))
        heir = torch.where(closer, label, torch.where(next_closer, arriving, heir))
        near, label = torch.where(closer, distance, near), torch.where(closer, arriving, label)
        if start is not None and bool((failures >= MAX_FAILURES).all()):
            break
    return centroids.view(batch, heads, count, head_dim)


def sample_size(count: int, tokens: int) -> int:
    """How many of a head's tokens are looked at to place `count` centroids."""
    return min(tokens, max(MIN_SAMPLE, min(SAMPLE_PER_CLUSTER * count, MAX_SAMPLE)))


def sample_rows(tokens: int, size: int, seed: int, device: torch.device) -> Tensor:
    """int64 [size]: one token of every size-th part of a span, in order."""
    part = torch.arange(size + 1, device=device)
    ends = part * tokens // size
    return ends[:-1] + hashed(part[:-1], seed) % (ends[1:] - ends[:-1])


def exponential(step: int, steps: int, size: int, seed: int, device: torch.device) -> Tensor:
    """fp32 [steps, size], exponentially distributed: those of the draws from `step` on."""
    counter = (step + 1 + torch.arange(steps, device=device).unsqueeze(1)) * STEP
    uniform = ((hashed(counter + torch.arange(size, device=device), seed) >> 8) + 0.5) * 2.0**-24
    return -uniform.float().log()


def hashed(counter: Tensor, seed: int) -> Tensor:
    """int64 counters -> int64 that look like random 32-bit numbers: hash-prospector's lowbias32."""
    low = (1 << 32) - 1
    h = counter ^ (seed * 0x9E3779B9 & low)
    h = (h ^ (h >> 16)) * 0x7FEB352D & low
    h = (h ^ (h >> 15)) * 0x846CA68B & low
    return h ^ (h >> 16)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """[n, A, B] between a [n, A, D] and b [n, B, D]."""
    norms_a, norms_b = a.square().sum(dim=-1), b.square().sum(dim=-1)
    return torch.baddbmm(norms_b.unsqueeze(1), a, b.mT, alpha=-2).add_(norms_a.unsqueeze(2)).clamp_(min=0)
