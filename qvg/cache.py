"""The key/value history of one video: a working block that is overwritten, then blocks that are encoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from qvg.codecs import build_codec
from qvg.config import BF16, QVG, CacheGeometry, CodecConfig
from qvg.device import choose
from qvg.layer import LayerCache, encode_pair
from qvg.offload import Offload
from qvg.ops.eight_bit import supports as eight_bit_support
from qvg.payload import Payload, joined_codebooks
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


class Snapshot(NamedTuple):
    """A cache's history after some commit, to come back to. `copied_bytes` is what it takes of its own."""

    context_frames: int
    blocks: int
    encoded: int
    layers: tuple[LayerSnapshot, ...]

    @property
    def copied_bytes(self) -> int:
        return sum(x.nbytes for layer in self.layers for x in (layer.k, layer.v) if x is not None)


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

    def reset(self) -> None:
        """Forgets everything, frees its memory and sets the clocks to zero."""
        self._context_frames = self._blocks = self._encoded = 0
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
            for layers in self._together(due):
                pairs = [None] * len(layers) if due is None else self._encode(layers, due, layout)
                for index, pair in zip(layers, pairs, strict=True):
                    self._layers[index].commit(due, layout, pair)
        self._encoded += due is not None

    def _together(self, due: range | None) -> Iterator[range]:
        """Neighbouring layers whose blocks `due` are encoded in the same launches."""
        layers, heads = self.geometry.layers, self.batch * self.geometry.heads
        tokens = len(due or ()) * self._settings.tokens_per_block
        size = max(1, min(HEADS_TOGETHER // heads, TOKENS_TOGETHER // max(1, heads * tokens)))
        for first in range(0, layers, size):
            yield range(first, min(first + size, layers))

    def _encode(self, layers: range, due: range, layout: Layout) -> list[tuple[Payload, Payload]]:
        block = self._settings.tokens_per_block
        first = len(layout.sink) * block
        k, v = self._resources.staging.some(layers, slice(first, first + len(due) * block))
        starts = [self._layers[index].start() for index in layers]
        start_k, start_v = (joined_codebooks(some) for some in zip(*starts, strict=True))
        pair = encode_pair(self.codecs, k, v, start_k, start_v)
        return list(zip(*(payload_split(x, len(layers)) for x in pair), strict=True))

    def rewrite(self, index: int, k: Tensor, v: Tensor) -> None:
        """Replaces everything in layer `index`, preloaded and staged frames included, by k, v [B, H, S, D].

        For a model that computes its whole history anew. S is a number of whole blocks: they count from 0
        again, and are encoded as if they had been committed one after another. Every layer must be given as
        many before the next commit. Raises ValueError for part of a block and for other B, H, D.
        """
        layer = self._layers[index]
        blocks = layer.whole_blocks(k, v)
        spans = 0
        while self.policy.due(blocks, spans) is not None:
            spans += 1
        with self._resources.encode_clock.running():
            layer.rewrite(k, v, self.policy.layout(blocks))
        self._context_frames = 0
        self._blocks, self._encoded = blocks, spans

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

    def snapshot(self) -> Snapshot:
        """Returns the committed history for `restore`; the staged block is not part of it.

        Raises ValueError between `preload` and `commit`, where layers no longer agree on their frames.
        """
        if any(layer.preloaded for layer in self._layers):
            raise ValueError("preloaded frames are not committed yet: commit, then take a snapshot")
        layers = tuple(layer.snapshot() for layer in self._layers)
        return Snapshot(self._context_frames, self._blocks, self._encoded, layers)

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to a snapshot of this cache, as often as wanted. Clocks run on."""
        self._context_frames = snapshot.context_frames
        self._blocks, self._encoded = snapshot.blocks, snapshot.encoded
        for layer, saved in zip(self._layers, snapshot.layers, strict=True):
            layer.restore(saved)

    def stats(self, wait: bool = True) -> CacheStats:
        """What the history takes now. Without `wait` for the device, times are those of what it has done."""
        parts: Counter[str] = Counter()
        scratch = on_host = 0
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
