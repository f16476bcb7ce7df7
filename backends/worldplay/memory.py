"""Selection of the history for a new block: the newest blocks, and those with the most similar view.

Views are compared by points drawn in a ball around a camera, as in hyvideo/utils/retrieval_context.py and
wan/models/utils.py of HY-WorldPlay; the same points give the same choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Refresh = Literal["recompute", "incremental", "frozen"]

POINTS, RADIUS = 50_000, 8.0
HALF_WIDTH, HALF_HEIGHT = 30.0, 17.5  # degrees: the field of view that retrieval assumes for every camera


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """How much of the history is read, and how old its keys and values are.

    `refresh` "recompute" encodes all blocks that are read again for every block, as HY-WorldPlay does.
    "incremental" encodes a block once, with the context of that time, and keeps it. "frozen" encodes all
    blocks that are read and keeps only the newest one, as Quant VideoGen's experiments do. At most `blocks`
    are read (None: as many as the cache has); `retrieved` of them are chosen by overlap of views.
    """

    refresh: Refresh = "recompute"
    blocks: int | None = None
    retrieved: int = 1

    def __post_init__(self) -> None:
        if self.retrieved < 0 or (self.blocks is not None and self.blocks <= self.retrieved):
            raise ValueError(
                f"retrieved={self.retrieved} must be 0 or more and less than blocks={self.blocks}: "
                "the newest block is always read"
            )


class FieldOfView:
    """Overlap of the views of cameras, by counting points on `device`."""

    def __init__(self, device: torch.device | str = "cpu", seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        length, around, up = (torch.rand(POINTS, generator=generator) for _ in range(3))
        radius = RADIUS * length ** (1 / 3)
        phi, theta = 2 * math.pi * around, torch.acos(1 - 2 * up)
        points = torch.stack(
            [
                radius * theta.sin() * phi.cos(),
                radius * theta.sin() * phi.sin(),
                radius * theta.cos(),
            ],
            1,
        )
        # Every query is in the coordinates of its own camera, so only points in that view are needed.
        self._seen = points[_inside(points, torch.zeros(1), torch.zeros(1))[:, 0]].double().to(device)

    def overlap(self, query: Tensor, others: Tensor) -> Tensor:
        """Returns fp64 [N]: the share of the view of `query` [4, 4] that `others` [N, 4, 4] see (all w2c)."""
        c2w = (query @ torch.linalg.inv(others)).to(self._seen.device)  # from each to the query
        ahead, place = c2w[:, :3, 2], c2w[:, :3, 3]
        azimuth, elevation = _angles(ahead)
        away = self._seen[:, None] - place  # [points, N, 3]
        seen = _inside(away, azimuth, elevation) & (away.norm(dim=-1) < RADIUS)
        # Divided in FP32, as the original does: equal overlaps must stay equal.
        return (seen.sum(0).float() / len(self._seen)).double().cpu()


def choose(
    w2c: Tensor, current: int, history: Sequence[int], blocks: int | None, retrieved: int, sight: FieldOfView
) -> tuple[int, ...]:
    """Returns the blocks of `history` that block `current` reads, oldest first.

    w2c fp64 [F, 4, 4] are the cameras of all frames up to those of `current`, with `frames` per block. All of
    the history is read while it has no more than `blocks`; then the newest blocks, and the `retrieved` others
    with the largest overlap.
    """
    if blocks is None or len(history) <= blocks:
        return tuple(history)
    frames = len(w2c) // (current + 1)
    newest, older = history[retrieved - blocks :], history[: retrieved - blocks]
    distances = [0.0] * len(older)
    # A block's first frame and its middle one represent it.
    shown = w2c[[block * frames + offset for block in older for offset in (0, frames // 2)]]
    for query in w2c[current * frames : (current + 1) * frames]:
        far = (1.0 - sight.overlap(query, shown)).view(-1, 2).tolist()
        distances = [
            total + (first + middle) / 2 for total, (first, middle) in zip(distances, far, strict=True)
        ]
    ranked = sorted(zip(distances, older, strict=True), key=lambda pair: pair[0] / frames)
    return tuple(sorted([*(block for _, block in ranked[:retrieved]), *newest]))


def _angles(direction: Tensor) -> tuple[Tensor, Tensor]:
    """Returns azimuth and elevation, in degrees, of directions [..., 3]; z is ahead."""
    x, y, z = direction.unbind(-1)
    return torch.rad2deg(torch.atan2(x, z)), torch.rad2deg(torch.atan2(y, torch.hypot(x, z)))


def _inside(points: Tensor, azimuth: Tensor, elevation: Tensor) -> Tensor:
    """Returns bool [M, N]: whether points [M, 3] or [M, N, 3] are in the field of view around N directions.

    Both are seen from the origin.
    """
    right, up = _angles(points if points.ndim == 3 else points[:, None])
    return (_wrapped(right - azimuth).abs() < HALF_WIDTH) & (_wrapped(up - elevation).abs() < HALF_HEIGHT)


def _wrapped(degrees: Tensor) -> Tensor:
    return torch.remainder(degrees + 180, 360) - 180
