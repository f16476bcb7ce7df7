"""Settings of a cache, and the memory and clocks that its layers share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from qvg.clock import Clock
from qvg.codecs.base import Codec
from qvg.config import CacheGeometry
from qvg.device import Choice
from qvg.offload import Offload
from qvg.policy import CachePolicy
from qvg.scratch import Scratch
from qvg.staging import Staging


@dataclass(frozen=True)
class CacheSettings:
    """Constants of a cache: its shape, codecs and policy, and the attention and data type for reading."""

    geometry: CacheGeometry
    codecs: tuple[Codec[Any], Codec[Any]]  # of keys, of values
    policy: CachePolicy
    frames_per_block: int
    batch: int
    device: torch.device
    dtype: torch.dtype  # of blocks in full precision
    choice: Choice
    eight_bit: bool  # whether attention over encoded spans is computed in E4M3

    @property
    def tokens_per_block(self) -> int:
        """S of a block."""
        return self.frames_per_block * self.geometry.tokens_per_frame


@dataclass(frozen=True)
class CacheResources:
    """Buffers and clocks of all layers, replaced together when the cache is reset."""

    staging: Staging  # blocks in full precision
    scratch: Scratch  # where spans are decoded to
    offload: Offload
    encode_clock: Clock
    read_clock: Clock

    @classmethod
    def new(cls, settings: CacheSettings) -> CacheResources:
        """Returns empty buffers, which take no memory yet, and clocks at zero."""
        geometry, device = settings.geometry, settings.device
        tokens = settings.policy.capacity * settings.tokens_per_block
        shape = (geometry.layers, settings.batch, geometry.heads, tokens, geometry.head_dim)
        return cls(
            Staging(shape, settings.dtype, device),
            Scratch(settings.choice.dtype),
            Offload(device),
            Clock(device),
            Clock(device),
        )
