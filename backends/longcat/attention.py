"""Attention among new frames, and from them to the clean frames before them in a `KVCache`.

Positions count from the first frame of the window, whichever frame of the video that is. Keys and values of
history depend on no prompt and no noise: branches of guidance and all candidates for a continuation share
them.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from backends.longcat.transformer import TOKENS_AT_ONCE
from qvg import KVCache, Rope, attend, choose, grid_rope, partial_attention, rotate

MAX_FRAMES = 1024  # latents in a window; the model was trained with 24


@lru_cache(maxsize=8)
def positions(pairs: tuple[int, int, int], rows: int, columns: int, device: torch.device) -> Rope:
    """Returns rotary tables for a picture of rows x columns tokens."""
    return grid_rope(MAX_FRAMES, rows, columns, pairs, device=device)


class Place:
    """A model's rotary tables, on the device of the tensor to rotate."""

    def __init__(self, pairs: tuple[int, int, int], rows: int, columns: int) -> None:
        self._grid = (pairs, rows, columns)

    def rope(self, x: Tensor) -> Rope:
        return positions(*self._grid, x.device)

    def rotate_(self, x: Tensor, first_frame: int) -> Tensor:
        """Rotates x [B, H, S, D], whole frames, in place, a few at a time to bound the memory. Returns x."""
        rope = self.rope(x)
        size = len(rope.place) * max(1, TOKENS_AT_ONCE // len(rope.place))
        for index, part in enumerate(x.split(size, dim=2)):
            rotate(part, rope, first_frame + index * size // len(rope.place), out=part)
        return x


class Alone:
    """Attention of frames to each other only; with a cache, they become its history."""

    def __init__(self, place: Place, frames: int, keep: KVCache | None = None) -> None:
        self._place, self._frames, self._keep = place, frames, keep

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        # Kernels run on the current device, and blocks may be on another.
        with torch.cuda.device_of(q):
            if self._keep is not None:
                self._keep.layer(layer).preload(k, v, self._frames)
            choice = choose(q.device, q.shape[-1])
            q, k = self._place.rotate_(q, 0), self._place.rotate_(k, 0)
            mixed = partial_attention(*(x.to(choice.dtype) for x in (q, k, v)), choice.attention).out
            return mixed.to(q.dtype)


class AfterHistory:
    """Attention of frames to each other and to the history of one video, whatever their batch."""

    def __init__(self, place: Place, cache: KVCache) -> None:
        self._place, self._cache = place, cache

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with torch.cuda.device_of(q):
            q = self._place.rotate_(q, self._cache.frames)
            return attend(q, self._cache.layer(layer), self._place.rope(k), (k, v))
