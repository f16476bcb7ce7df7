"""FP8 with 4 bits of exponent and 3 of fraction, from and to wider numbers."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

E4M3_MAX = 448.0


def to_e4m3(x: Tensor) -> Tensor:
    """The nearest E4M3 number, at most 448 in magnitude."""
    # Clamped first: the cast overflows to NaN on some versions and devices.
    return x.clamp(-E4M3_MAX, E4M3_MAX).to(torch.float8_e4m3fn)


def from_e4m3(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The same numbers in a wider `dtype`."""
    if x.device.type != "cpu":
        return x.to(dtype)
    # A CPU casts them one by one; they are looked up six times as fast.
    return _numbers(dtype).index_select(0, x.view(torch.uint8).int().flatten()).view(x.shape)


def codebooks_of(centroids: Tensor, powers: Tensor | None) -> Tensor:
    """`centroids` as BF16 numbers, exactly: BF16 as they are, or E4M3 times bf16 `powers` of two."""
    return centroids if powers is None else from_e4m3(centroids, torch.bfloat16) * powers


@lru_cache(maxsize=4)
def _numbers(dtype: torch.dtype) -> Tensor:
    return torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).to(dtype)
