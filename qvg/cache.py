"""The key/value history of one video: a working block that is overwritten, then blocks that are encoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from qvg.codecs import build_codec
from qvg.codecs.base import Growth
from qvg.config import BF16, QVG, CacheGeometry, CodecConfig
from qvg.device import choose
from qvg.growing import Growing, started
from qvg.layer import LayerCache, encode_pair
from qvg.offload import Offload
from qvg.ops.eight_bit import supports as eight_bit_support
from qvg.payload import GROWING, joined_codebooks
from qvg.payload import split as payload_split
from qvg.policy import CachePolicy, Layout
from qvg.resources import CacheResources, CacheSettings
from qvg.scratch import Scratch
from qvg.spans import LayerSnapshot
from qvg.stats import CacheStats

DEFAULT_POLICY = CachePolicy()
# Layers are encoded in the same launches until they fill a GPU, or 128 MiB to place centroids in.
TOKENS_TOGETHER = 1 << 20  # over all heads
HEADS_TOGETHER = 64


class GrowingSpan(NamedTuple):
    """The newest span of neighbouring layers, while it is not full: their batches one after another."""

    layers: range
    k: Growing
    v: Growing

    @property
    def unused_bytes(self) -> int:
        return self.k.unused_bytes + self.v.unused_bytes


class Snapshot(NamedTuple):
    """A cache's history after some commit, to come back to. `copied_bytes` is what it takes of its own."""

    context_frames: int
    blocks: int
    encoded: int
    growing: tuple[GrowingSpan, ...]
    layers: tuple[LayerSnapshot, ...]

    @property
    def copied_bytes(self) -> int:
        """Copies of blocks in full precision, and what the newest span has that does not only grow."""
        copies = [x for layer in self.layers for x in (layer.k, layer.v) if x is not None]
        for span in (layer.spans[-1] for layer in self.layers if layer.spans and self.growing):
            parts = (*span.k.parts.items(), *span.v.parts.items())
            copies += [part for name, part in parts if name not in GROWING]
        return sum(x.nbytes for x in copies)


class KVCache:
    """History of all layers. Frames are latent frames; a block is `frames_per_block` of them.

    stage every layer (any number of times) -> commit once the block is clean -> stage the next block.

    A history that does not arrive block by block is given whole: preload every layer -> commit.

    Raises ValueError where the codec does not suit the heads, or the policy asks for 8-bit attention and the
    device cannot.
    """

    def __init__(
        self,
        geometry: CacheGeometry,
        codec: CodecConfig = QVG,
        policy: CachePolicy = DEFAULT_POLICY,
        *,
        frames_per_block: int,
        batch: int = 1,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        if frames_per_block < 1 or batch < 1:
            raise ValueError(f"frames_per_block={frames_per_block} and batch={batch} must be at least 1")
        self.geometry = geometry
        self.codec = codec
        self.policy = policy
        self.frames_per_block = frames_per_block
        self.batch = batch
        self.device = torch.device(device)
        self.dtype = dtype
        self.eight_bit = policy.attention_bits == 8 and codec != BF16
        self.choice = choose(self.device, geometry.head_dim)
        why_not = eight_bit_support(self.device, geometry.head_dim) if self.eight_bit else None
        if why_not:
            raise ValueError(f"attention_bits=8: {why_not}. Set it to 16.")
        # Fails now, not at the first commit, when the heads do not suit the codec.
        codec.stored_bytes(batch, geometry.heads, 1, geometry.head_dim)
        self.codecs = (build_codec(codec, "k"), build_codec(codec, "v"))
        self._settings = CacheSettings(
            geometry,
            self.codecs,
            policy,
            frames_per_block,
            batch,
            self.device,
            dtype,
            self.choice,
            self.eight_bit,
        )
        self._resources = CacheResources.new(self._settings)
        self._layers = tuple(
            LayerCache(self._settings, index, self._resources) for index in range(geometry.layers)
        )
        self._context_frames = self._blocks = self._encoded = 0
        self._growing: tuple[GrowingSpan, ...] = ()

    def reset(self) -> None:
        """Forgets everything, frees its memory and sets the clocks to zero."""
        self._context_frames = self._blocks = self._encoded = 0
        self._growing = ()
        self._resources = CacheResources.new(self._settings)
        for layer in self._layers:
            layer.reset(self._resources)

    @property
    def scratch(self) -> Scratch:
        """Memory that spans are decoded to, whichever layer reads."""
        return self._resources.scratch

    @property
    def offload(self) -> Offload:
        """Spans in host memory."""
        return self._resources.offload

    def layer(self, index: int) -> LayerCache:
        """What layer `index` of the model stages to and reads from."""
        return self._layers[index]

    @property
    def frames(self) -> int:
        """Frames ever committed: the number of the first frame of the staged block."""
        return self._context_frames + self._blocks * self.frames_per_block

    def commit(self) -> None:
        """Makes the staged block of every layer history, then encodes and evicts as the policy says.

        After `preload` of every layer, makes that the whole history. Raises ValueError, and changes nothing,
        when a layer has nothing staged or preloaded, or was not rewritten with the others. After any other
        error (out of memory while encoding) the cache must be reset.
        """
        if any(layer.preloaded for layer in self._layers):
            self._commit_context()
            return
        for index, layer in enumerate(self._layers):
            if not layer.staged:
                raise ValueError(
                    f"layer {index} has nothing staged: stage keys and values of every layer, then commit"
                )
            if layer.blocks != self._blocks:
                raise ValueError(
                    f"layer {index} holds {layer.blocks} blocks, but {self._blocks} were last rewritten: "
                    "rewrite every layer with the same number"
                )
            if layer.next_frame != self.frames:
                raise ValueError(
                    f"layer {index} still has preloaded frames, others were rewritten: rewrite every layer"
                )
        self._blocks += 1
        due = self.policy.due(self._blocks, self._encoded)
        layout = self.policy.layout(self._blocks)
        with self._resources.encode_clock.running():
            if due is None:
                for layer in self._layers:
                    layer.commit(None, layout, None)
            else:
                self._encode(due, layout)

    def _encode(self, due: range, layout: Layout) -> None:
        """Encodes the blocks `due` of all layers, behind what their spans already hold."""
        span = self.policy.span_of(due.start)
        unfinished = []
        for layers, growing in self._together(due):
            spans = self._extended(layers, growing, due, layout)
            if due.stop < span.stop:
                unfinished.append(GrowingSpan(layers, *spans))
            split = (payload_split(each.payload, len(layers)) for each in spans)
            for index, k, v in zip(layers, *split, strict=True):
                self._layers[index].commit(due, layout, (k, v))
        self._growing = tuple(unfinished)
        self._encoded += len(due)

    def _extended(
        self, layers: range, growing: GrowingSpan | None, due: range, layout: Layout
    ) -> tuple[Growing, Growing]:
        """The spans of neighbouring layers, keys and values, once the blocks `due` are encoded."""
        policy, block = self.policy, self._settings.tokens_per_block
        span = policy.span_of(due.start)
        first = len(layout.sink) * block
        k, v = self._resources.staging.some(layers, slice(first, first + len(due) * block))
        filled = policy.filled(due.stop - span.start)
        fine = len(due) * block if policy.fine else 0
        tokens = len(span) * block
        if growing is not None:
            before = (growing.k, growing.v)
            growth = [Growth(filled, each.payload, fine) for each in before]
            pair = encode_pair(self.codecs, k, v, growth=growth)
            grown = [each.appended(more, tokens) for each, more in zip(before, pair, strict=True)]
            return grown[0], grown[1]
        starts = [self._layers[index].start() for index in layers]
        warm = [joined_codebooks(some) for some in zip(*starts, strict=True)]
        pair = encode_pair(self.codecs, k, v, warm, [Growth(filled, None, fine)] * 2)
        if due.stop == span.stop:
            return Growing(pair[0]), Growing(pair[1])
        return started(pair[0], tokens), started(pair[1], tokens)

    def _together(self, due: range) -> Iterator[tuple[range, GrowingSpan | None]]:
        """Neighbouring layers whose blocks `due` are encoded in the same launches, and their spans."""
        if due.start > self.policy.span_of(due.start).start:
            yield from ((growing.layers, growing) for growing in self._growing)
            return
        layers, heads = self.geometry.layers, self.batch * self.geometry.heads
        tokens = len(due) * self._settings.tokens_per_block
        size = max(1, min(HEADS_TOGETHER // heads, TOKENS_TOGETHER // max(1, heads * tokens)))
        for first in range(0, layers, size):
            yield range(first, min(first + size, layers)), None

    def rewrite(self, index: int, k: Tensor, v: Tensor) -> None:
        """Replaces everything in layer `index`, preloaded and staged frames included, by k, v [B, H, S, D].

        For a model that computes its whole history anew. S is a number of whole blocks: they count from 0
        again, and are encoded as if they had been committed one after another. Every layer must be given as
        many before the next commit. Raises ValueError for part of a block and for other B, H, D.
        """
        layer = self._layers[index]
        blocks = layer.whole_blocks(k, v)
        encoded = 0
        while self.policy.due(blocks, encoded) is not None:
            encoded += self.policy.together
        with self._resources.encode_clock.running():
            layer.rewrite(k, v, self.policy.layout(blocks))
        self._context_frames = 0
        self._blocks, self._encoded = blocks, encoded
        self._separate(index)

    def _separate(self, index: int) -> None:
        """Lets the newest span of layer `index`, and of those that it grew with, grow by itself."""
        beside = next((some.layers for some in self._growing if index in some.layers), ())
        spans = [some for some in self._growing if index not in some.layers]
        for each in {index, *beside}:
            pair = self._layers[each].growing
            if pair is not None:
                spans.append(GrowingSpan(range(each, each + 1), Growing(pair[0]), Growing(pair[1])))
        self._growing = tuple(sorted(spans, key=lambda some: some.layers.start))

    def _commit_context(self) -> None:
        counts = [layer.preloaded for layer in self._layers]
        for index, frames in enumerate(counts):
            if frames != counts[0] or not frames:
                raise ValueError(
                    f"layer {index} has {frames} frames preloaded, but layer 0 has {counts[0]}: preload the "
                    "same frames into every layer, then commit"
                )
        for layer in self._layers:
            layer.preloaded = 0
        self._resources.staging.free()
        self._context_frames = counts[0]
        self._blocks = self._encoded = 0
        self._growing = ()

    def snapshot(self) -> Snapshot:
        """Returns the committed history for `restore`; the staged block is not part of it.

        Raises ValueError between `preload` and `commit`, where layers no longer agree on their frames.
        """
        if any(layer.preloaded for layer in self._layers):
            raise ValueError("preloaded frames are not committed yet: commit, then take a snapshot")
        layers = tuple(layer.snapshot() for layer in self._layers)
        return Snapshot(self._context_frames, self._blocks, self._encoded, self._growing, layers)

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to a snapshot of this cache, as often as wanted. Clocks run on."""
        self._context_frames = snapshot.context_frames
        self._blocks, self._encoded = snapshot.blocks, snapshot.encoded
        self._growing = snapshot.growing
        for layer, saved in zip(self._layers, snapshot.layers, strict=True):
            layer.restore(saved)

    def stats(self, wait: bool = True) -> CacheStats:
        """What the history takes now. Without `wait` for the device, times are those of what it has done."""
        parts: Counter[str] = Counter()
        scratch, on_host = sum(span.unused_bytes for span in self._growing), 0
        for layer in self._layers:
            parts.update(layer.parts())
            scratch += layer.scratch_bytes
            on_host += layer.host_bytes
        layout = self.policy.layout(self._blocks)
        frames = layout.visible_blocks * self.frames_per_block
        tokens = frames * self.geometry.tokens_per_frame + self._layers[0].context_tokens
        bf16_bytes = BF16.stored_bytes(self.batch, self.geometry.heads, tokens, self.geometry.head_dim)
        return CacheStats(
            stored_bytes=parts.total(),
            bf16_bytes=2 * self.geometry.layers * bf16_bytes,
            scratch_bytes=scratch + self.scratch.nbytes + self.offload.nbytes,
            host_bytes=on_host,
            parts=dict(parts),
            frames=self._context_frames + frames,
            total_frames=self.frames,
            tokens=tokens,
            spans=len(layout.spans) + (self._context_frames > 0),
            encode_ms=self._resources.encode_clock.read(wait),
            read_ms=self._resources.read_clock.read(wait),
        )
