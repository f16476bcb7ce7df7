"""One layer's keys and values: how they are held, and how they are read.

Full-precision blocks live in one buffer: sinks, then the blocks waiting to be encoded, then the staged block.
Staging writes behind what is there: reading it with the waiting blocks takes no copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from qvg.clock import Clock
from qvg.codecs.base import Codec, Growth
from qvg.growing import encode_part
from qvg.offload import HostSpan
from qvg.ops.rotate import rotate
from qvg.payload import Payload, some_heads, without_fine
from qvg.policy import Layout
from qvg.resources import CacheResources, CacheSettings
from qvg.rope import Rope
from qvg.scratch import Scratch
from qvg.spans import DecodedSlice, EncodedSpan, HistorySlice, LayerSnapshot, Prefix
from qvg.streams import on, two_streams

EVERY = slice(None)
WHOLE_SPAN = Growth()


class LayerCache:
    """One layer's share of a `KVCache`: keys before rotation, and values.

    Each model writes its history in one way and reads it in one way:

    | written by          | read by                 | model                                             |
    | ------------------- | ----------------------- | ------------------------------------------------- |
    | `stage`, `commit`   | `attend`                | Self-Forcing, Pocket World: a block at a time     |
    | `preload`, `commit` | `attend(working=...)`   | LongCat: the whole history at once                |
    | `rewrite`, `stage`  | `attend_chosen`         | HY-WorldPlay: past made anew, some blocks of it   |
    """

    def __init__(self, settings: CacheSettings, index: int, resources: CacheResources) -> None:
        geometry = settings.geometry
        self.choice = settings.choice
        self.eight_bit = settings.eight_bit
        self.heads_shape = (settings.batch, geometry.heads, geometry.head_dim)  # B, H, D
        self.staged = False
        self.preloaded = 0  # frames, until they are committed
        self._index = index
        self._policy = settings.policy
        self._layer_count = geometry.layers
        self._frames_per_block = settings.frames_per_block
        self._block = settings.tokens_per_block
        self._tokens_per_frame = geometry.tokens_per_frame
        self._dtype = settings.dtype
        self._codecs = settings.codecs
        self._layout: Layout = settings.policy.layout(0)
        self._resources = resources
        # k and v [B, H, capacity * block, D], this layer's part of it, from the first `stage` on.
        self._buffers: tuple[Tensor, Tensor] | None = None
        self._context: Prefix | None = None
        self._spans: list[EncodedSpan] = []

    def reset(self, resources: CacheResources) -> None:
        """Forgets everything and frees its memory."""
        self._resources = resources
        self._context = None
        self._forget_blocks()

    @property
    def scratch(self) -> Scratch:
        """Memory to decode spans to, shared by all layers."""
        return self._resources.scratch

    @property
    def read_clock(self) -> Clock:
        """Time spent reading, by all layers together."""
        return self._resources.read_clock

    def _forget_blocks(self) -> None:
        self.staged = False
        self.preloaded = 0
        self._layout = self._policy.layout(0)
        self._buffers = None
        self._spans = []

    @torch.no_grad()
    def preload(self, k: Tensor, v: Tensor, frames: int | None = None) -> None:
        """Puts k, v [B, H, S, D] in place of this layer's history, encoded at once as one span.

        For a history that is given whole: no layer ever waits in full precision for the others. It counts
        once committed, is read before the blocks that follow, and stays until the next one. Keys are not
        rotated. `frames` says how many they are where a frame has not the geometry's tokens (None: it has).
        k-means starts from what is replaced, where that has as many tokens. Raises ValueError for part of a
        frame and unless B, H, D are the cache's.
        """
        self._check_heads("K", k)
        self._check_heads("V", v)
        tokens = k.shape[2]
        size = self._tokens_per_frame if frames is None else tokens // max(frames, 1)
        frames = tokens // size if frames is None else frames
        if frames < 1 or frames * size != tokens or v.shape != k.shape:
            raise ValueError(
                f"K has {tokens} tokens and V {v.shape[2]}, which are not {frames} whole frames of {size}: "
                "preload the same whole frames of both"
            )
        last = self._context if self._context and self._context.k.shape == k.shape else None
        with self._resources.encode_clock.running():
            pair = self._encode(k.contiguous(), v.contiguous(), last)
            self._context = Prefix(frames, *pair)
            self._forget_blocks()
            self._settle([])
        self.preloaded = frames

    def _encode(
        self, k: Tensor, v: Tensor, near: EncodedSpan | Prefix | None, growth: Growth = WHOLE_SPAN
    ) -> tuple[Payload, Payload]:
        return encode_pair(self._codecs, k, v, self._start(near), (growth, growth))

    @torch.no_grad()
    def stage(self, k: Tensor, v: Tensor) -> None:
        """Puts the working block k, v [B, H, S, D] in place of the one staged before. Keys are not rotated.

        Raises ValueError unless S is exactly one block and B, H, D are the cache's.
        """
        if self.preloaded:
            raise ValueError(f"{self.preloaded} preloaded frames are not committed yet: commit, then stage")
        self._check("K", k)
        self._check("V", v)
        if self._buffers is None:
            self._buffers = self._resources.staging.of(self._index)
        start = self._full_precision_blocks * self._block
        for buffer, x in zip(self._buffers, (k, v), strict=True):
            buffer[:, :, start : start + self._block].copy_(x)
        self.staged = True

    @torch.no_grad()
    def commit(self, due: range | None, layout: Layout, pair: tuple[Payload, Payload] | None) -> None:
        """Makes the staged block history, and drops what `layout` hides.

        The blocks `due` have been encoded: `pair` is the whole span that they are the last of.
        """
        assert self._buffers is not None
        if due is not None and pair is not None:
            first = len(layout.sink)
            began = self._policy.span_of(due.start).start
            before = self._spans[: -1 if due.start > began else None]
            if before:
                last = before.pop()
                before.append(last._replace(k=without_fine(last.k), v=without_fine(last.v)))
            self._spans = [*before, EncodedSpan(range(began, due.stop), *pair)]
            # Block by block: source and destination of one copy never overlap.
            for slot in range(first, first + len(layout.recent)):
                for buffer in self._buffers:
                    moved = buffer[:, :, (slot + len(due)) * self._block :][:, :, : self._block]
                    buffer[:, :, slot * self._block : (slot + 1) * self._block].copy_(moved)
        self._spans = self._settle([span for span in self._spans if span.blocks.stop > layout.first_visible])
        self._layout = layout
        self.staged = False

    @torch.no_grad()
    def rewrite(self, k: Tensor, v: Tensor, layout: Layout) -> None:
        """Replaces the history, preloaded frames included, by the blocks of k, v as `layout` places them."""
        self._context, self.preloaded = None, 0
        spans: list[EncodedSpan] = []
        for blocks in layout.spans:
            # What stood in the same place is the best start for k-means: keys change little when made anew.
            near = [*self._spans[len(spans) : len(spans) + 1], *spans[-1:]]
            near = [span for span in near if len(span.blocks) >= len(blocks)]
            part = slice(blocks.start * self._block, blocks.stop * self._block)
            fine = self._block if self._policy.fine and blocks == layout.spans[-1] else 0
            growth = Growth(self._policy.filled(len(blocks)), fine=fine)
            pair = self._encode(k[:, :, part], v[:, :, part], near[0] if near else None, growth)
            spans = self._settle([*spans, EncodedSpan(blocks, *pair)])
        if self._buffers is None:
            self._buffers = self._resources.staging.of(self._index)
        for slot, block in enumerate((*layout.sink, *layout.recent)):
            for buffer, x in zip(self._buffers, (k, v), strict=True):
                kept = x[:, :, block * self._block : (block + 1) * self._block]
                buffer[:, :, slot * self._block : (slot + 1) * self._block].copy_(kept)
        self._spans, self._layout = spans, layout
        self.staged = False

    @property
    def next_frame(self) -> int:
        """The number of the first frame after the history."""
        return self._context_frames + self._layout.recent.stop * self._frames_per_block

    @property
    def growing(self) -> tuple[Payload, Payload] | None:
        """Keys and values of the span that the next block is appended to, if there is one."""
        last = self._spans[-1] if self._spans else None
        return (last.k, last.v) if last and len(last.blocks) < self._policy.every else None

    def snapshot(self) -> LayerSnapshot:
        k = v = None
        if self._buffers is not None and self._full_precision_blocks:
            tokens = self._full_precision_blocks * self._block
            k, v = (buffer[:, :, :tokens].clone() for buffer in self._buffers)
        return LayerSnapshot(self._layout, self._context, tuple(self._spans), k, v)

    @torch.no_grad()
    def restore(self, snapshot: LayerSnapshot) -> None:
        self.staged, self.preloaded = False, 0
        self._layout, self._context = snapshot.layout, snapshot.context
        self._spans = list(snapshot.spans)
        if snapshot.k is None or snapshot.v is None:
            return
        if self._buffers is None:
            self._buffers = self._resources.staging.of(self._index)
        for buffer, saved in zip(self._buffers, (snapshot.k, snapshot.v), strict=True):
            buffer[:, :, : saved.shape[2]].copy_(saved)

    def stretches(self, staged: bool = True) -> Iterator[HistorySlice]:
        """Visible history and, with `staged`, the staged block, as they are held."""
        if self._context is not None:
            yield HistorySlice(0, self._context.k, self._context.v, host=self._context.host)
        for span in self._spans:
            hidden = max(0, self._layout.first_visible - span.blocks.start)
            first_frame = self._context_frames + (span.blocks.start + hidden) * self._frames_per_block
            yield HistorySlice(first_frame, span.k, span.v, hidden * self._block, span.host)
        sinks, stop = len(self._layout.sink), self._full_precision_blocks + (self.staged and staged)
        # Before anything is encoded the sinks and what follows them are consecutive frames: one stretch.
        apart = self._layout.recent.start > sinks
        if apart and sinks:
            yield self._stretch(self._context_frames, range(sinks))
        slots = range(sinks if apart else 0, stop)
        if slots:
            before = self._layout.recent.start * self._frames_per_block if apart else 0
            yield self._stretch(self._context_frames + before, slots)

    def read(
        self,
        stretch: HistorySlice,
        dtype: torch.dtype,
        heads: slice = EVERY,
        rope: Rope | None = None,
        out: tuple[Tensor, Tensor] | None = None,
        stream: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Keys, rotated by `rope`, and values [B, H, S, D] of some heads of a stretch. Not to be written to.

        What has to be made is made in `out`, where that is given: tensors of that shape. With a `stream` they
        may share memory with what the next read with that stream gives, as `Offload.stage` says.
        """
        k_out, v_out = out or (None, None)
        if isinstance(stretch.k, Tensor) or isinstance(stretch.v, Tensor):
            assert isinstance(stretch.k, Tensor) and isinstance(stretch.v, Tensor)
            k = stretch.k[:, heads].to(dtype)
            if rope is not None:
                k = rotate(k, rope, stretch.first_frame, k_out)
            return k, stretch.v[:, heads].to(dtype)
        span_k, span_v = self._on_device(stretch.k, stretch.v, stretch.host, heads, stream)
        codec_k, codec_v = self._codecs
        k = codec_k.decode(
            span_k,
            dtype,
            stretch.start,
            rope=rope,
            first_frame=stretch.first_frame,
            out=k_out,
        )
        return k, codec_v.decode(span_v, dtype, stretch.start, out=v_out)

    def pieces(self, dtype: torch.dtype, staged: bool = True) -> Iterator[DecodedSlice]:
        """`stretches`, decoded to `dtype` in turn. Not to be written to."""
        for stretch in self.stretches(staged):
            yield DecodedSlice(stretch.first_frame, *self.read(stretch, dtype))

    def chosen(self, blocks: Sequence[int], dtype: torch.dtype) -> Iterator[DecodedSlice]:
        """`blocks` of the history and the staged block, decoded to `dtype` in turn. Not to be written to.

        Frames are counted among the chosen, from 0 and without gaps; the staged block comes last. Only spans
        that hold one of them are decoded. A piece may be gone once the next is asked for. Raises ValueError
        unless `blocks` are held, visible and rising.
        """
        sink, recent = self._layout.sink, self._layout.recent
        shown = [
            range(max(span.blocks.start, self._layout.first_visible), span.blocks.stop)
            for span in self._spans
        ]
        held = {block for home in (sink, recent, *shown) for block in home}
        if not held.issuperset(blocks) or list(blocks) != sorted(set(blocks)):
            raise ValueError(f"blocks {list(blocks)} are not rising numbers of blocks held: {sorted(held)}")
        wanted = [*blocks, self.blocks] if self.staged else list(blocks)
        codec_k, codec_v = self._codecs
        for span in self._spans:
            runs = _runs(wanted, span.blocks)
            if not runs:
                continue
            first = runs[0][1].start
            start = (first - span.blocks.start) * self._block
            span_k, span_v = self._on_device(span.k, span.v, span.host, EVERY, stream=0)
            k, v = codec_k.decode(span_k, dtype, start), codec_v.decode(span_v, dtype, start)
            for place, run in runs:
                part = slice((run.start - first) * self._block, (run.stop - first) * self._block)
                yield DecodedSlice(place * self._frames_per_block, k[:, :, part], v[:, :, part])
        for slot, home in ((0, sink), (len(sink), range(recent.start, recent.stop + self.staged))):
            for place, run in _runs(wanted, home):
                slots = range(slot + run.start - home.start, slot + run.stop - home.start)
                stretch = self._stretch(place * self._frames_per_block, slots)
                yield DecodedSlice(stretch.first_frame, *self.read(stretch, dtype))

    def whole_blocks(self, k: Tensor, v: Tensor) -> int:
        """How many blocks k and v are. Raises ValueError unless they are whole ones of this cache's shape."""
        for name, x in (("K", k), ("V", v)):
            self._check_heads(name, x)
            if x.shape[2] == 0 or x.shape[2] % self._block or x.shape != k.shape:
                raise ValueError(
                    f"{name} has {x.shape[2]} tokens: give K and V the same number of whole blocks of "
                    f"{self._frames_per_block} frames of {self._tokens_per_frame}, {self._block} tokens"
                )
        return k.shape[2] // self._block

    def parts(self) -> dict[str, int]:
        """Bytes of the history by name, as in `CacheStats.parts`."""
        sizes = Counter(
            sink=len(self._layout.sink) * self._block_bytes,
            recent=len(self._layout.recent) * self._block_bytes,
        )
        context = () if self._context is None else (self._context.k, self._context.v)
        for payload in (*context, *(payload for span in self._spans for payload in (span.k, span.v))):
            sizes.update({name: tensor.nbytes for name, tensor in payload.parts.items()})
        return dict(sizes)

    @property
    def host_bytes(self) -> int:
        """Of the history's bytes, those in the host's memory."""
        return sum(held.host.nbytes for held in (self._context, *self._spans) if held and held.host)

    @property
    def blocks(self) -> int:
        """Ever committed, or last rewritten."""
        return self._layout.recent.stop

    @property
    def context_tokens(self) -> int:
        """Tokens of the history that was preloaded."""
        return 0 if self._context is None else self._context.k.shape[2]

    @property
    def scratch_bytes(self) -> int:
        """Bytes of the buffers that hold no history: the staged block and what is not in use."""
        if self._buffers is None:
            return 0
        return (self._policy.capacity - self._full_precision_blocks) * self._block_bytes

    @property
    def _context_frames(self) -> int:
        return 0 if self._context is None else self._context.frames

    @property
    def _full_precision_blocks(self) -> int:
        return len(self._layout.sink) + len(self._layout.recent)

    @property
    def _block_bytes(self) -> int:
        batch, heads, head_dim = self.heads_shape
        return 2 * batch * heads * self._block * head_dim * self._dtype.itemsize

    def _settle(self, spans: list[EncodedSpan]) -> list[EncodedSpan]:
        """`spans`, and the context before them, with the oldest in the host's memory as the policy says."""
        if self._policy.device_bytes is None:
            return spans
        newest_first = [held for held in (*reversed(spans), self._context) if held is not None]
        stay = self._policy.on_device(map(_nbytes, newest_first), self._layer_count)
        if self._context is not None and stay < len(newest_first) and self._context.host is None:
            host = self._resources.offload.store(self._context.k, self._context.v)
            self._context = Prefix(self._context.frames, host.k, host.v, host)
        for index, span in enumerate(spans[: max(0, len(spans) - stay)]):
            if span.host is None:
                host = self._resources.offload.store(span.k, span.v)
                spans[index] = EncodedSpan(span.blocks, host.k, host.v, host)
        return spans

    def start(self) -> tuple[Payload | None, Payload | None]:
        """What k-means of the next blocks' keys and values start from."""
        return self._start(self._spans[-1] if self._spans else None)

    def _start(self, near: Prefix | EncodedSpan | None) -> tuple[Payload | None, Payload | None]:
        """What k-means of keys and of values start from: those of `near`, wherever they are."""
        # Nothing but codebooks is started from: other spans are not worth fetching.
        if near is None or "centroids" not in near.k.parts:
            return None, None
        return (near.k, near.v) if near.host is None else self._resources.offload.load(near.host)

    def _on_device(
        self, k: Payload, v: Payload, host: HostSpan | None, heads: slice, stream: int | None
    ) -> tuple[Payload, Payload]:
        """Some heads of a span: with a `stream`, in its memory; see `Offload`."""
        if host is None:
            return some_heads(k, heads), some_heads(v, heads)
        if stream is not None:
            return self._resources.offload.stage(host, heads, stream)
        k, v = self._resources.offload.load(host)
        return some_heads(k, heads), some_heads(v, heads)

    def _stretch(self, first_frame: int, slots: range) -> HistorySlice:
        """Returns the full-precision blocks in `slots` of the buffer; `first_frame` is their first frame."""
        assert self._buffers is not None
        first, last = slots.start * self._block, slots.stop * self._block
        k, v = (buffer[:, :, first:last] for buffer in self._buffers)
        return HistorySlice(first_frame, k, v)

    def _check_heads(self, name: str, x: Tensor) -> None:
        batch, heads, head_dim = self.heads_shape
        if x.ndim != 4 or (x.shape[0], x.shape[1], x.shape[3]) != self.heads_shape:
            raise ValueError(
                f"{name} is {tuple(x.shape)}, but the cache holds [{batch}, {heads}, S, {head_dim}]"
            )

    def _check(self, name: str, x: Tensor) -> None:
        self._check_heads(name, x)
        if x.shape[2] != self._block:
            raise ValueError(
                f"{name} has {x.shape[2]} tokens, but a block is {self._frames_per_block} whole frames of "
                f"{self._tokens_per_frame}: stage exactly {self._block} tokens"
            )


@torch.no_grad()
def encode_pair(
    codecs: Sequence[Codec[Any]],
    k: Tensor,
    v: Tensor,
    warm: Sequence[Payload | None] = (None, None),
    growth: Sequence[Growth] = (WHOLE_SPAN, WHOLE_SPAN),
) -> tuple[Payload, Payload]:
    """Both [B, H, S, D], side by side: placing centroids keeps little of a GPU busy."""
    with two_streams(k.device) as (stream_k, stream_v):
        with on(stream_k):
            encoded_k = encode_part(codecs[0], k, warm[0], growth[0])
        with on(stream_v):
            encoded_v = encode_part(codecs[1], v, warm[1], growth[1])
    return encoded_k, encoded_v


def _nbytes(held: Prefix | EncodedSpan) -> int:
    return held.k.stored_bytes + held.v.stored_bytes


def _runs(wanted: Sequence[int], home: range) -> list[tuple[int, range]]:
    """Neighbours among the `wanted` blocks in `home`: where they come in `wanted`, and which they are."""
    runs: list[tuple[int, range]] = []
    for place, block in enumerate(wanted):
        if block in home:
            if runs and runs[-1][1].stop == block:
                runs[-1] = (runs[-1][0], range(runs[-1][1].start, block + 1))
            else:
                runs.append((place, range(block, block + 1)))
    return runs
