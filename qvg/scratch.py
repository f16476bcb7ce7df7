"""Memory that is written again and again: where spans are decoded to, shared by all layers of a cache."""

from __future__ import annotations

import torch
from torch import Tensor


class Scratch:
    """Grows to the largest that was asked for, and keeps that."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._memory: dict[tuple[torch.device, int], Tensor] = {}

    def take(self, device: torch.device, stream: int, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Two tensors of `shape`; what the last call with this device and stream gave is overwritten."""
        size = shape.numel()
        memory = self._memory.get((device, stream))
        if memory is None or memory.numel() < 2 * size:
            self._memory.pop((device, stream), None)
            # A tensor made in inference mode could not be written to outside of it.
            with torch.inference_mode(False):
                memory = torch.empty(2 * size, dtype=self._dtype, device=device)
            self._memory[device, stream] = memory
        return memory[:size].view(shape), memory[size : 2 * size].view(shape)

    @property
    def nbytes(self) -> int:
        return sum(memory.nbytes for memory in self._memory.values())
