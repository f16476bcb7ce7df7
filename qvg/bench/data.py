"""Keys and values that behave like a video's: nobody's model, but with the structure codecs live on."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from qvg.config import CacheGeometry

PROTOTYPES = 64  # what a head sees: sky, grass, a face
DRIFT, STAYS = 0.05, 0.97  # a frame differs a little from the one before; in the long run by 0.2
NOISE = 0.2
OUTLIERS = 32  # in keys every how manyeth channel is far from zero and four times as wide


class Stream:
    """One layer's keys or values, bf16 [B, H, S, D], frame after frame from a generator of its own.

    A place of the picture keeps its prototype, drifts slowly over the frames and is noisy in each. "q" are
    queries that look for what keys of the same seed show, without the keys' outliers.
    """

    def __init__(
        self,
        geometry: CacheGeometry,
        tensor: Literal["q", "k", "v"],
        device: torch.device,
        seed: int,
        batch: int = 1,
    ) -> None:
        self._generator = torch.Generator(device).manual_seed(2 * seed + (tensor == "v"))
        self._outliers = tensor == "k"
        heads, places, channels = batch * geometry.heads, geometry.tokens_per_frame, geometry.head_dim
        self._batch = batch
        prototypes = self._normal(heads, PROTOTYPES, channels)
        which = torch.randint(PROTOTYPES, (heads, places, 1), device=device, generator=self._generator)
        self._base = prototypes.gather(1, which.expand(-1, -1, channels))
        self._drift = torch.zeros_like(self._base)

    def frames(self, count: int) -> Tensor:
        """The next `count` frames: [B, H, count * P, D]."""
        heads, places, channels = self._base.shape
        out = torch.empty(heads, count, places, channels, dtype=torch.bfloat16, device=self._base.device)
        for frame in range(count):
            self._drift.mul_(STAYS).add_(self._normal(heads, places, channels), alpha=DRIFT)
            x = torch.add(self._base + self._drift, self._normal(heads, places, channels), alpha=NOISE)
            if self._outliers:
                x[..., ::OUTLIERS].mul_(4).add_(8)
            out[:, frame] = x
        return out.view(self._batch, -1, count * places, channels)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self._generator.device, generator=self._generator)
