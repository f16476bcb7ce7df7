"""What a cache holds and how its spans are coded, as frozen values. No torch: the page imports it.

A config knows the exact size of what its codec stores, so that a run's cost is known before it starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

BF16_BYTES = 2
MAX_CLUSTERS = 256  # labels are stored as uint8


@dataclass(frozen=True, slots=True)
class CacheGeometry:
    """The shape of a model's self-attention history. A frame is a latent frame."""

    layers: int
    heads: int
    head_dim: int
    tokens_per_frame: int

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "head_dim", "tokens_per_frame"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class BF16Config:
    """Spans as they come, in BF16: the baseline."""

    def stored_bytes(self, batch: int, heads: int, tokens: int, head_dim: int) -> int:
        """Bytes of one encoded tensor [B, H, S, D]."""
        return batch * heads * tokens * head_dim * BF16_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class PRQConfig:
    """Progressive residual quantisation: `stages` k-means codebooks, then `bits`-bit groups of what is left.

    Quant VideoGen, arXiv 2602.02958, section 4. A value is a sum of one centroid per stage and `code *
    scale`.
    """

    stages: int = 1
    clusters: int = 256  # centroids per stage, batch item and head; a span of fewer tokens uses one a token
    group: int = 64  # neighbouring channels sharing one FP8 E4M3 scale
    bits: Literal[2, 4] = 2  # levels -1..1 or -7..7
    iterations: int = 2  # k-means rounds per stage

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise ValueError(f"stages={self.stages} must be at least 1; for no codebook at all use BF16")
        if not 1 <= self.clusters <= MAX_CLUSTERS:
            raise ValueError(
                f"labels are stored as uint8: clusters={self.clusters} must be 1 to {MAX_CLUSTERS}"
            )
        if self.group < 1:
            raise ValueError(f"group={self.group} must be at least 1 channel; the paper uses 64 and 16")
        if self.bits not in (2, 4):
            raise ValueError(f"bits={self.bits} must be 2 or 4")
        if self.iterations < 0:
            raise ValueError(f"iterations={self.iterations} must be 0 (keep the starting centroids) or more")

    @property
    def top_level(self) -> int:
        """The largest code: the scale of a group is its largest magnitude over this."""
        return 2 ** (self.bits - 1) - 1

    def check_head_dim(self, head_dim: int) -> None:
        """Raises ValueError when heads of this size cannot be cut into whole groups and whole bytes."""
        if head_dim % self.group:
            raise ValueError(
                f"head_dim={head_dim} is not whole groups of {self.group} channels; use a divisor"
            )
        if head_dim * self.bits % 8:
            raise ValueError(
                f"head_dim={head_dim} at {self.bits} bits does not fill whole bytes; pad the heads"
            )

    def stored_bytes(self, batch: int, heads: int, tokens: int, head_dim: int) -> int:
        """Bytes of one encoded tensor [B, H, S, D]: codes, FP8 scales, uint8 labels and BF16 centroids."""
        self.check_head_dim(head_dim)
        codes = tokens * head_dim * self.bits // 8
        scales = tokens * (head_dim // self.group)
        labels = self.stages * tokens
        centroids = self.stages * min(self.clusters, tokens) * head_dim * BF16_BYTES
        return batch * heads * (codes + scales + labels + centroids)


CodecConfig = BF16Config | PRQConfig

BF16 = BF16Config()
# Settings of the paper; its code runs 2 k-means rounds in the Self-Forcing script and 5 for Pro.
QVG = PRQConfig()
QVG_PRO = PRQConfig(stages=4, group=16, iterations=5)
QVG_INT4 = replace(QVG, bits=4)
QVG_PRO_INT4 = replace(QVG_PRO, bits=4)

PRESETS: Mapping[str, CodecConfig] = MappingProxyType(
    {
        "BF16": BF16,
        "QVG INT2": QVG,
        "QVG-Pro INT2": QVG_PRO,
        "QVG INT4": QVG_INT4,
        "QVG-Pro INT4": QVG_PRO_INT4,
    }
)
