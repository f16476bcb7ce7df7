"""Random keys and values with the structure of a video's that codecs exploit; of no model."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from qvg.config import CacheGeometry

PROTOTYPES = 64  # kinds of content that a head tells apart, such as sky and grass
DRIFT, STAYS = 0.05, 0.97  # a frame differs a little from the one before; in the long run by 0.2
NOISE = 0.2
OUTLIERS = 32  # of the keys, one channel in so many is far from zero and four times as wide


class Stream:
    """One layer's queries, keys or values, bf16 [B, H, S, D], frame after frame from its own generator.

    Each place of the picture keeps its prototype, drifts slowly over the frames and has noise in each.
    Queries ("q") have the prototypes of the keys of the same seed, without the keys' outliers.
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
        """Returns the next `count` frames of P tokens: [B, H, count * P, D]."""
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
