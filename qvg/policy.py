"""Which blocks of history are kept as they are, which share a span, and which are dropped.

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

from qvg.config import BF16, WHOLE, CacheGeometry, CodecConfig, Filled, PRQConfig, TensorName, prq_of


class Layout(NamedTuple):
    """Where every readable block is after some number of commits. Ranges are block numbers."""

    sink: range  # full precision, for ever
    spans: tuple[range, ...]  # encoded and still held, oldest first; the last may grow
    recent: range  # full precision, waiting to be encoded
    first_visible: int  # blocks between the sinks and this one are out of the window

    @property
    def visible_blocks(self) -> int:
        """Blocks a read goes over; a span that is partly out of the window counts with what is inside."""
        inside = sum(span.stop - max(span.start, self.first_visible) for span in self.spans)
        return len(self.sink) + inside + len(self.recent)


@dataclass(frozen=True, slots=True)
class CachePolicy:
    """`every` blocks share a span and its codebook, except the first `sink` and the newest `recent` ones.

    A block is encoded when its span is complete; where spans grow (`grows`), when it is committed: its codes
    are written behind those already there, and the codebook gets some centroids more. With `fine`, what was
    encoded last is kept in two bits a value more until the next block is encoded.

    `window` limits what is read to the newest `window` committed blocks and the sinks; None reads everything.
    The block being denoised is always read and is not counted. A span's memory is freed once all its blocks
    are outside.

    `device_bytes` is what the encoded spans of all layers together may take of the device's memory. Beyond it
    the oldest are kept in the host's, and copied back whenever they are read. None keeps all on the device,
    0 none but the one that grows.

    With 8 `attention_bits`, attention to what is encoded in fewer than 16 computes in 8-bit floats
    (`qvg.ops.eight_bit`).
    """

    every: int = 8
    sink: int = 0
    recent: int = 0
    window: int | None = None
    device_bytes: int | None = None
    attention_bits: int = 16
    grows: bool = False
    fine: bool = False

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every={self.every} must be at least 1 block")
        if self.sink < 0 or self.recent < 0:
            raise ValueError(f"sink={self.sink} and recent={self.recent} must be 0 or more blocks")
        if self.fine and not self.grows:
            raise ValueError("fine=True is for spans that grow: set grows=True too")
        if self.window is not None and self.window < self.shortest_window:
            shortest = "1 + recent" if self.grows else "every + recent"
            raise ValueError(
                f"window={self.window} blocks is shorter than {shortest} = {self.shortest_window}: "
                "blocks would leave before they are encoded; lower every or recent, or widen the window"
            )
        if self.device_bytes is not None and self.device_bytes < 0:
            raise ValueError(
                f"device_bytes={self.device_bytes} must be 0 (no encoded span stays on the device) or more"
            )
        if self.attention_bits not in (8, 16):
            raise ValueError(f"attention_bits={self.attention_bits} must be 16, or 8")

    @property
    def together(self) -> int:
        """Blocks that are encoded at once."""
        return 1 if self.grows else self.every

    @property
    def shortest_window(self) -> int:
        return self.together + self.recent

    @property
    def capacity(self) -> int:
        """Blocks that are ever in full precision at once, the one being denoised included."""
        return self.sink + self.recent + self.together

    def filled(self, blocks: int) -> Filled:
        """How much of a span `blocks` of them are: of one that does not grow, all."""
        return Filled(blocks, self.every) if self.grows else WHOLE

    def span_of(self, block: int) -> range:
        """All blocks of the span that encoded block `block` is in."""
        start = block - (block - self.sink) % self.every
        return range(start, start + self.every)

    def on_device(self, sizes: Iterable[int], layers: int) -> int:
        """How many spans of one of `layers` layers stay on the device, of `sizes` bytes, newest first."""
        room = inf if self.device_bytes is None else self.device_bytes // layers
        sizes = list(sizes)
        stay = sum(1 for _ in takewhile(lambda held: held <= room, accumulate(sizes)))
        return max(stay, min(len(sizes), self.grows))

    def due(self, committed: int, encoded: int) -> range | None:
        """The blocks to encode after `committed` commits, beside the `encoded`; None when too few wait."""
        start = self.sink + encoded
        stop = start + self.together
        return range(start, stop) if stop + self.recent <= committed else None

    def layout(self, committed: int) -> Layout:
        """Where the blocks are after `committed` commits."""
        waiting = max(0, committed - self.sink - self.recent) % self.together
        stop = max(self.sink, committed - self.recent - waiting)  # of what is encoded
        first_visible = 0 if self.window is None else max(0, committed - self.window)
        spans = tuple(
            range(start, min(start + self.every, stop))
            for start in range(self.sink, stop, self.every)
            if min(start + self.every, stop) > first_visible
        )
        sink = range(min(self.sink, committed))
        return Layout(sink, spans, range(min(committed, stop), committed), first_visible)


def cache_bytes(
    geometry: CacheGeometry,
    codec: CodecConfig,
    policy: CachePolicy,
    blocks: int,
    frames_per_block: int,
    batch: int = 1,
) -> tuple[int, int]:
    """What a cache of dtype BF16 reports after `blocks` commits: (stored_bytes, bf16_bytes)."""
    layout = policy.layout(blocks)
    block = _block_shape(geometry, frames_per_block, batch)
    full_precision = len(layout.sink) + len(layout.recent)
    spans = sum(_span_sizes(codec, policy, layout, block))
    stored = geometry.layers * (full_precision * _pair(BF16, block) + spans)
    return stored, geometry.layers * layout.visible_blocks * _pair(BF16, block)


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
    block = _block_shape(geometry, frames_per_block, batch)
    newest_first = _span_sizes(codec, policy, policy.layout(blocks), block)[::-1]
    away = newest_first[policy.on_device(newest_first, geometry.layers) :]
    return geometry.layers * sum(away), 2 * max(away, default=0)


def unused_bytes(
    geometry: CacheGeometry,
    codec: CodecConfig,
    policy: CachePolicy,
    blocks: int,
    frames_per_block: int,
    batch: int = 1,
) -> int:
    """What a cache of dtype BF16 holds after `blocks` commits beside `cache_bytes`: room for what comes.

    That is full-precision blocks, and codes of a span that is not full.
    """
    layout = policy.layout(blocks)
    block = _block_shape(geometry, frames_per_block, batch)
    unused = (policy.capacity - len(layout.sink) - len(layout.recent)) * _pair(BF16, block)
    if policy.grows and layout.spans:
        unused += (policy.every - len(layout.spans[-1])) * _codes(codec, block)
    return geometry.layers * unused


Shape = tuple[int, int, int, int]


def _block_shape(geometry: CacheGeometry, frames_per_block: int, batch: int) -> Shape:
    """B, H, S, D of a block of one layer."""
    return batch, geometry.heads, frames_per_block * geometry.tokens_per_frame, geometry.head_dim


TENSORS: tuple[TensorName, TensorName] = ("k", "v")


def _pair(codec: CodecConfig, block: Shape, blocks: int = 1) -> int:
    """Bytes of keys and values of `blocks` blocks that are encoded at once."""
    batch, heads, tokens, head_dim = block
    return sum(codec.stored_bytes(batch, heads, blocks * tokens, head_dim, each) for each in TENSORS)


def _grown(codec: CodecConfig, block: Shape, filled: Filled) -> int:
    """Bytes of keys and values of a span that has grown block by block: only codebooks are shared."""
    batch, heads, tokens, head_dim = block
    blocks, size = filled.blocks, 0
    for tensor in TENSORS:
        prq = prq_of(codec, tensor)
        if prq is None:
            size += blocks * codec.stored_bytes(*block, tensor)
        else:
            size += prq.stored_bytes(batch, heads, blocks * tokens, head_dim, tensor, filled)
    return size


def _codes(codec: CodecConfig, block: Shape) -> int:
    """Bytes of keys and values of a block without what it shares with others."""
    shared = (prq.shared_bytes(*block) for prq in _prq(codec) if prq is not None)
    return _pair(codec, block) - sum(shared)


def _prq(codec: CodecConfig) -> tuple[PRQConfig | None, PRQConfig | None]:
    return prq_of(codec, "k"), prq_of(codec, "v")


def _span_sizes(codec: CodecConfig, policy: CachePolicy, layout: Layout, block: Shape) -> list[int]:
    """Bytes of every span of one layer, oldest first."""
    sizes = [
        _grown(codec, block, policy.filled(len(span))) if policy.grows else _pair(codec, block, len(span))
        for span in layout.spans
    ]
    if policy.fine and sizes:
        sizes[-1] += sum(prq.fine_bytes(*block) for prq in _prq(codec) if prq is not None)
    return sizes
