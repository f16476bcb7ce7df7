"""Buffers that spans are decoded to, reused for every span and shared by all layers of a cache."""

from __future__ import annotations

import torch
from torch import Tensor


class Scratch:
    """Buffers of one type by device and stream, each as large as the largest ever requested."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype
        self._memory: dict[tuple[torch.device, int], Tensor] = {}

    def take(self, device: torch.device, stream: int, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """Returns two tensors of `shape`, in the memory of the last call with this device and stream."""
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
        """Bytes of all buffers."""
        return sum(memory.nbytes for memory in self._memory.values())
