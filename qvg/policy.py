"""Which blocks of history are kept as they are, which are encoded together, and which are dropped.

Everything is counted in blocks: what a model denoises together, a fixed number of frames. Blocks are numbered
from 0 as they are committed. The standard library only; `KVCache` follows `CachePolicy.layout` and so does
the forecast below.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import accumulate, takewhile
from math import inf
from typing import NamedTuple

from qvg.config import BF16, CacheGeometry, CodecConfig


class Layout(NamedTuple):
    """Where every readable block is after some number of commits. Ranges are block numbers."""

    sink: range  # full precision, for ever
    spans: tuple[range, ...]  # encoded together and still held, oldest first
    recent: range  # full precision, waiting to be encoded
    first_visible: int  # blocks between the sinks and this one are out of the window

    @property
    def visible_blocks(self) -> int:
        """Blocks a read goes over; a span that is partly out of the window counts with what is inside."""
        inside = sum(span.stop - max(span.start, self.first_visible) for span in self.spans)
        return len(self.sink) + inside + len(self.recent)


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """Blocks are encoded `every` at a time, except the first `sink` and the newest `recent` ones.

    `window` limits what is read to the newest `window` committed blocks and the sinks; None reads everything.
    The block being denoised is always read and is not counted. A span's memory is freed once all its blocks
    are outside.

    `device_bytes` is what the encoded spans of all layers together may take of the device's memory. Beyond it
    the oldest are kept in the host's, and copied back whenever they are read. None keeps all on the device,
    0 none.

    With 8 `attention_bits`, attention to what is encoded in fewer than 16 computes in 8-bit floats
    (`qvg.ops.eight_bit`).
    """

    every: int = 8
    sink: int = 0
    recent: int = 0
    window: int | None = None
    device_bytes: int | None = None
    attention_bits: int = 16

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every={self.every} must be at least 1 block")
        if self.sink < 0 or self.recent < 0:
            raise ValueError(f"sink={self.sink} and recent={self.recent} must be 0 or more blocks")
        if self.window is not None and self.window < self.every + self.recent:
            raise ValueError(
                f"window={self.window} blocks is shorter than every + recent = {self.every + self.recent}: "
                "blocks would leave before they are encoded; lower every or recent, or widen the window"
            )
        if self.device_bytes is not None and self.device_bytes < 0:
            raise ValueError(
                f"device_bytes={self.device_bytes} must be 0 (no encoded span stays on the device) or more"
            )
        if self.attention_bits not in (8, 16):
            raise ValueError(f"attention_bits={self.attention_bits} must be 16, or 8")

    @property
    def capacity(self) -> int:
        """Blocks that are ever in full precision at once, the one being denoised included."""
        return self.sink + self.recent + self.every

    def on_device(self, sizes: Iterable[int], layers: int) -> int:
        """How many spans of one of `layers` layers stay on the device, of `sizes` bytes, newest first."""
        room = inf if self.device_bytes is None else self.device_bytes // layers
        return sum(1 for _ in takewhile(lambda held: held <= room, accumulate(sizes)))

    def due(self, committed: int, spans: int) -> range | None:
        """The blocks to encode after `committed` commits and `spans` spans; None when too few wait."""
        start = self.sink + spans * self.every
        stop = start + self.every
        return range(start, stop) if stop + self.recent <= committed else None

    def layout(self, committed: int) -> Layout:
        """Where the blocks are after `committed` commits."""
        encoded = max(0, committed - self.sink - self.recent) // self.every
        first_visible = 0 if self.window is None else max(0, committed - self.window)
        spans = tuple(
            range(start, start + self.every)
            for start in range(self.sink, self.sink + encoded * self.every, self.every)
            if start + self.every > first_visible
        )
        sink = range(min(self.sink, committed))
        recent = range(min(committed, self.sink + encoded * self.every), committed)
        return Layout(sink, spans, recent, first_visible)


def cache_bytes(
    geometry: CacheGeometry,
    codec: CodecConfig,
    policy: CachePolicy,
    blocks: int,
    frames_per_block: int,
    batch: int = 1,
) -> tuple[int, int]:
    """What a cache of dtype BF16 reports after `blocks` commits: (stored_bytes, bf16_bytes)."""
    tokens = frames_per_block * geometry.tokens_per_frame
    layout = policy.layout(blocks)

    def layers(config: CodecConfig, count: int) -> int:
        shape = (batch, geometry.heads, count * tokens, geometry.head_dim)
        return geometry.layers * (config.stored_bytes(*shape, "k") + config.stored_bytes(*shape, "v"))

    full_precision = len(layout.sink) + len(layout.recent)
    stored = layers(BF16, full_precision) + len(layout.spans) * layers(codec, policy.every)
    return stored, layers(BF16, layout.visible_blocks)


def host_bytes(
    geometry: CacheGeometry,
    codec: CodecConfig,
    policy: CachePolicy,
    blocks: int,
    frames_per_block: int,
    batch: int = 1,
) -> tuple[int, int]:
    """Of the `stored_bytes` of `cache_bytes` those in the host's memory, and what it takes to read them.

    They are copied to room on the device that all layers share, at most two spans of one: see `qvg.offload`.
    """
    tokens = policy.every * frames_per_block * geometry.tokens_per_frame
    shape = (batch, geometry.heads, tokens, geometry.head_dim)
    span = codec.stored_bytes(*shape, "k") + codec.stored_bytes(*shape, "v")
    spans = len(policy.layout(blocks).spans)
    away = spans - policy.on_device([span] * spans, geometry.layers)
    return geometry.layers * away * span, 2 * span if away else 0
