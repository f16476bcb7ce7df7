"""Where k-means starts: some tokens of a span say where centroids are missing.

Beginning each span at the last one's centroids (streaming, as in the paper) keeps their mistakes: centroids
that share a cluster stay together while new content goes without, and after a cut the error is 12 times that
of a fresh start. So the least missed quarter of them, half or all of them may be replaced by tokens drawn as
k-means++ draws them (Arthur and Vassilvitskii 2007), and every head takes what suits its span best. A cold
start is the last of these. Two rounds of k-means then come within 5 % of ten from a cold start, on made-up
videos, also where their content changes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qvg.ops.finite import cleaned

SAMPLE_PER_CLUSTER = 8
MIN_SAMPLE, MAX_SAMPLE = 256, 1024  # tokens of a head that are looked at
SHARES = 4  # of the sample; tokens drawn by the same distances come from different ones
STEP = 1 << 16  # random numbers set aside for a draw
REPLACED = (0, 1, 2, 4)  # quarters of the centroids that are replaced: what is tried


def seed_centroids_reference(
    x: Tensor, count: int, seed: int, start: Tensor | None = None, limit: Tensor | None = None
) -> Tensor:
    """x: [B, H, S, D], finite or with a `limit`, count <= S -> fp32 [B, H, count, D].

    `start` [B, H, count, D] are centroids to improve; without, all are drawn.

    A token is drawn with probability proportional to its squared distance to the nearest centroid: the
    largest of distance / e, e exponential. Later ones are drawn four at a time, each from a share of the
    sample. What a centroid is worth is how much farther its tokens are from
    their second nearest. Of what was tried, a head takes that from which the tokens not drawn are nearest on
    average. All heads share the random numbers.
    """
    batch, heads, tokens, _ = x.shape
    if start is not None and (count < 2 or tokens <= count):
        return start.float()
    size = sample_size(count, tokens)
    sample = cleaned(x[:, :, sample_rows(tokens, size, seed, x.device)], limit).flatten(0, 1)  # [n, M, D]
    if start is None:
        nothing = torch.full(sample.shape[:2], torch.inf, device=x.device)
        drawn = _draw(sample, nothing, 0, count, seed)[0]
        return drawn.view(batch, heads, count, -1)
    centroids = start.flatten(0, 1).float()
    distances = squared_distances(sample, centroids)  # [n, M, K]
    (near, second), (label, _) = (part.unbind(-1) for part in distances.topk(2, dim=-1, largest=False))
    worth = torch.zeros_like(centroids[..., 0]).scatter_add_(1, label, second - near)
    best, least = centroids, torch.full_like(near[:, 0], torch.inf)
    for quarters in REPLACED:
        replaced = count * quarters // 4
        order = worth.argsort(dim=-1, stable=True)[:, :replaced]
        gone = torch.zeros_like(worth, dtype=torch.bool).scatter_(1, order, True)
        left = distances.masked_fill(gone.unsqueeze(1), torch.inf).amin(dim=-1)
        drawn, left = _draw(sample, left, count - replaced, replaced, seed)
        tried = centroids.scatter(1, order.unsqueeze(-1).expand(-1, -1, centroids.shape[-1]), drawn)
        missed = left.sum(dim=-1) / max(1, size - replaced)
        better = missed < least
        best, least = torch.where(better.view(-1, 1, 1), tried, best), torch.minimum(missed, least)
    return best.view(batch, heads, count, -1)


def more_centroids_reference(
    x: Tensor, kept: Tensor, count: int, seed: int, limit: Tensor | None = None
) -> Tensor:
    """fp32 [B, H, count, D]: the centroids `kept` [B, H, K, D] and tokens of x [B, H, S, D] far from them.

    Tokens are drawn as `seed_centroids_reference` draws them. Where all are at a centroid, some come twice.
    """
    batch, heads, tokens, head_dim = x.shape
    kept = kept.float()
    added = count - kept.shape[2]
    size = sample_size(count, tokens)
    sample = cleaned(x[:, :, sample_rows(tokens, size, seed, x.device)], limit).flatten(0, 1)
    near = squared_distances(sample, kept.flatten(0, 1)).amin(dim=-1)
    drawn, _ = _draw(sample, near, kept.shape[2], added, seed)
    return torch.cat([kept, drawn.view(batch, heads, added, head_dim)], dim=2)


def _draw(sample: Tensor, near: Tensor, kept: int, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """`count` tokens of sample [n, M, D] beside `kept` centroids, [n, count, D], and then the distances near.

    near: fp32 [n, M]; infinite where there is no centroid yet.
    """
    heads, size, _ = sample.shape
    every = torch.arange(heads, device=sample.device).unsqueeze(1)
    share = torch.arange(SHARES, device=sample.device)
    norms = sample.square().sum(dim=-1)
    drawn, done, step = [sample[:, :0]], 0, 0
    while done < count:
        race = torch.where(near.isinf(), 1.0, near) / exponential(step, size, seed, sample.device)
        # Shares are every SHARES-th token; the last places of the last row may be empty.
        race = torch.nn.functional.pad(race, (0, -size % SHARES), value=-1.0).unflatten(1, (-1, SHARES))
        first, row = race.max(dim=1)  # [n, SHARES]
        best = first.topk(min(size, at_once(kept + done, count - done)), dim=1).indices
        token = (row * SHARES + share).gather(1, best)
        goal = sample[every, token]  # [n, A, D]
        distance = norms.unsqueeze(1) + norms[every, token].unsqueeze(2) - 2 * goal @ sample.mT
        distance.clamp_(min=0).scatter_(2, token.unsqueeze(2), 0.0)
        near = torch.minimum(near, distance.amin(dim=1))
        drawn.append(goal)
        done, step = done + goal.shape[1], step + 1
    return torch.cat(drawn, dim=1), near


def at_once(placed: int, missing: int) -> int:
    """How many of the missing centroids are drawn by the same distances: few while few are placed."""
    return min(missing, SHARES, max(1, placed // 8))


def sample_size(count: int, tokens: int) -> int:
    """How many of a head's tokens are looked at to place `count` centroids."""
    return min(tokens, max(MIN_SAMPLE, min(SAMPLE_PER_CLUSTER * count, MAX_SAMPLE)))


def sample_rows(tokens: int, size: int, seed: int, device: torch.device) -> Tensor:
    """int64 [size]: one token of every size-th part of a span, in order."""
    part = torch.arange(size + 1, device=device)
    ends = part * tokens // size
    return ends[:-1] + hashed(part[:-1], seed) % (ends[1:] - ends[:-1])


def exponential(draw: int, size: int, seed: int, device: torch.device) -> Tensor:
    """fp32 [size], exponentially distributed: the numbers of one draw."""
    counter = (draw + 1) * STEP + torch.arange(size, device=device)
    return -(((hashed(counter, seed) >> 8) + 0.5) * 2.0**-24).float().log()


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
