"""Consecutive tokens' keys and values: as a layer stores them, reads them and saves them in a snapshot."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from qvg.offload import HostSpan
from qvg.payload import Payload
from qvg.policy import Layout


class EncodedSpan(NamedTuple):
    """Consecutive blocks encoded together. `blocks` are their numbers, counted from the first committed."""

    blocks: range
    k: Payload
    v: Payload
    host: HostSpan | None = None  # set when offloaded: `k` and `v` are then meta tensors


class Prefix(NamedTuple):
    """Frames before block 0, preloaded and encoded together as one span."""

    frames: int
    k: Payload
    v: Payload
    host: HostSpan | None = None


class DecodedSlice(NamedTuple):
    """Decoded keys, not rotated, and values of consecutive frames."""

    first_frame: int
    k: Tensor  # [B, H, S, D]
    v: Tensor  # [B, H, S, D]


class HistorySlice(NamedTuple):
    """Stored keys, not rotated, and values of consecutive frames, encoded or in full precision."""

    first_frame: int
    k: Payload | Tensor
    v: Payload | Tensor
    start: int = 0  # tokens at the beginning that the policy has evicted
    host: HostSpan | None = None

    @property
    def tokens(self) -> int:
        """Tokens that are visible."""
        return self.k.shape[2] - self.start


class LayerSnapshot(NamedTuple):
    """A layer's history: its encoded spans, which never change, and copies of its full-precision blocks."""

    layout: Layout
    context: Prefix | None
    spans: tuple[EncodedSpan, ...]
    k: Tensor | None  # [B, H, S, D]; None without full-precision blocks
    v: Tensor | None
