"""Mosaic's model and rollout: a linear transformer over a KV cache, the smallest that is one."""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor

from backends.base import BackendSpec, Request, Segment, Tick
from backends.camera import CameraMove
from backends.mosaic.spec import COLUMNS, ROWS, SPEC, TILE
from qvg import KVCache, attend, grid_rope

STEPS = 2
WIDTH = SPEC.geometry.head_dim
FRAMES = SPEC.latents_per_block


class MosaicBackend:
    """The weights, which all videos share."""

    spec: BackendSpec = SPEC

    def __init__(self, device: torch.device) -> None:
        layers = SPEC.geometry.layers
        weights = torch.randn(layers, 3, WIDTH, WIDTH, generator=torch.Generator().manual_seed(0))
        self.weights = (weights / WIDTH**0.5).to(device)  # of q, k and v in every layer
        self.rope = grid_rope(SPEC.max_blocks * FRAMES, ROWS, COLUMNS, (16, 8, 8), device=device)

    def open(self, request: Request, cache: KVCache, tick: Tick) -> MosaicRollout:
        return MosaicRollout(self, request, cache, tick)


class MosaicRollout:
    """One video over one cache."""

    def __init__(self, backend: MosaicBackend, request: Request, cache: KVCache, tick: Tick) -> None:
        self.notes = ("The prompt is not read.",)
        self._backend, self._request, self._cache, self._tick = backend, request, cache, tick
        self._noise = torch.Generator().manual_seed(request.seed)
        self._index = 0

    def step(self, move: CameraMove | None = None) -> Segment | None:
        if self._index == self._request.blocks:
            return None
        tokens = SPEC.latents_per_block * SPEC.geometry.tokens_per_frame
        x = torch.randn(1, 1, tokens, WIDTH, generator=self._noise).to(self._backend.weights)
        for step in range(STEPS):
            self._tick(step, STEPS)
            x = self._denoise(x)
        self._cache.commit()
        index = self._index
        self._index += 1
        return Segment(_frames(x), index, index * SPEC.frames_per_block, SPEC.fps)

    def _denoise(self, x: Tensor) -> Tensor:
        """x: [1, 1, S, D]. Overwrites the block that the step before has staged."""
        rope = self._backend.rope
        for index, weights in enumerate(self._backend.weights):
            q, k, v = (x @ weight for weight in weights)
            layer = self._cache.layer(index)
            layer.stage(k, v)
            x = (x + attend(rope(q, self._cache.frames), layer, rope)) / 2**0.5
        return x


def _frames(x: Tensor) -> np.ndarray:
    """Returns uint8 [F, H, W, 3]: the first three channels of a token are the color of its tile."""
    colors = rearrange(x[0, 0, :, :3].sigmoid(), "(f r c) rgb -> f r c rgb", f=FRAMES, r=ROWS)
    tiles = repeat(colors, "f r c rgb -> f (r y) (c x) rgb", y=TILE, x=TILE)
    return (tiles * 255).round().to(torch.uint8).cpu().numpy()
