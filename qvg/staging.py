"""Full-precision blocks of all layers, in one buffer so that several layers are encoded in one launch."""

from __future__ import annotations

import torch
from torch import Tensor


class Staging:
    """Buffers k and v [layers, B, H, S, D], allocated at their first use."""

    def __init__(
        self, shape: tuple[int, int, int, int, int], dtype: torch.dtype, device: torch.device
    ) -> None:
        self._shape, self._dtype, self._device = shape, dtype, device
        self._both: tuple[Tensor, Tensor] | None = None

    def of(self, layer: int) -> tuple[Tensor, Tensor]:
        """Returns k and v [B, H, S, D] of one layer, as views."""
        if self._both is None:
            # A tensor made in inference mode could not be written to outside of it.
            with torch.inference_mode(False):
                k, v = (torch.empty(self._shape, dtype=self._dtype, device=self._device) for _ in "kv")
            self._both = (k, v)
        k, v = self._both
        return k[layer], v[layer]

    def some(self, layers: range, tokens: slice) -> tuple[Tensor, Tensor]:
        """Returns k and v [len(layers) * B, H, S, D] of neighbouring layers, as views."""
        assert self._both is not None
        k, v = (x[layers.start : layers.stop, :, :, tokens].flatten(0, 1) for x in self._both)
        return k, v

    def free(self) -> None:
        """Drops the buffers; the memory is free once no layer refers to it."""
        self._both = None
