"""Attention over the visible history and the staged block: one softmax, computed a span at a time.

The history is never decoded as a whole: each span is decoded, its keys are rotated and attended to, its
memory is freed, and the partial results are merged by their log-sum-exp. On a GPU some heads at a time go
through all spans, in two streams: one attends to a span while the other decodes the next. Every span of every
layer is decoded to the same two small buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from qvg.layer import LayerCache
from qvg.ops.attention import Partial, Total, partial_attention
from qvg.ops.eight_bit import eight_bit_attention
from qvg.ops.eight_bit import query as eight_bit_query
from qvg.ops.rotate import rotate as apply_rope
from qvg.rope import Rope
from qvg.spans import HistorySlice
from qvg.streams import on, two_streams

Rotate = Rope | Callable[[Tensor, int], Tensor]
# Takes k, v [B, H, S, D] as they were staged and the number of their first frame; returns keys and values for
# each attention.
Prepare = Callable[[Tensor, Tensor, int], Sequence[tuple[Tensor, Tensor]]]

STREAM_BYTES = 60 << 20  # decoded keys and values of some heads of a span, in each of two streams


@torch.no_grad()
def attend(
    q: Tensor,
    layer: LayerCache,
    rotate: Rotate | None = None,
    working: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Returns the attention of q [B, H, Q, D] over everything visible to `layer`, in q's shape and dtype.

    `q` is already rotated. `rotate` is a `Rope`, which is fused into decoding, or a function:
    `rotate(k, first_frame)` returns the keys k [B, H, S, D] of consecutive whole frames with their positions
    applied; it must not write to k. `first_frame` counts all frames ever committed, from 0.

    `working` holds the keys, not rotated, and values [B', H, S, D] of the block being denoised, in place of
    a staged block. B' may be a multiple of the cache's batch B, as for the branches of guidance: item i uses
    the history of item i % B, which is decoded and rotated once for all of them.

    Raises ValueError when there is nothing to attend to, and where shapes do not agree.
    """
    copies = _copies(q, layer, working)
    query = q.to(layer.choice.dtype)
    stretches = list(layer.stretches(staged=working is None))
    if not stretches and working is None:
        raise ValueError("there is nothing to attend to: stage a block first")
    groups = _head_groups(q, stretches)
    with layer.read_clock.running():
        if len(groups) == 1:
            return _some_heads(query, layer, stretches, rotate, working, copies, groups[0], None).to(q.dtype)
        result = torch.empty_like(q)
        with two_streams(q.device) as streams:
            for number, heads in enumerate(groups):
                stream = number % len(streams)
                with on(streams[stream]):
                    some = _some_heads(query, layer, stretches, rotate, working, copies, heads, stream)
                    result[:, heads] = some
    return result


def _some_heads(
    query: Tensor,
    layer: LayerCache,
    stretches: Sequence[HistorySlice],
    rotate: Rotate | None,
    working: tuple[Tensor, Tensor] | None,
    copies: int,
    heads: slice,
    stream: int | None,
) -> Tensor:
    """Returns the attention of some heads, [B, h, Q, D]; a `stream` (its index) decodes to its own buffer."""
    choice = layer.choice
    query = query[:, heads]
    together = _fold(query, copies)
    small = eight_bit_query(together) if layer.eight_bit else None
    total = Total()
    rope = rotate if isinstance(rotate, Rope) else None
    buffers = None
    if stream is not None:
        batch, count, _, head_dim = together.shape
        longest = max(stretch.tokens for stretch in stretches)
        buffers = layer.scratch.take(query.device, stream, torch.Size((batch, count, longest, head_dim)))
    for stretch in stretches:
        out = (
            None
            if buffers is None
            else (buffers[0][:, :, : stretch.tokens], buffers[1][:, :, : stretch.tokens])
        )
        k, v = layer.read(stretch, choice.dtype, heads, rope, out, stream or 0)
        if rotate is not None and rope is None:
            k = rotate(k, stretch.first_frame).to(choice.dtype)
        attention = partial(partial_attention, together, k, v, choice.attention)
        if small is not None and not isinstance(stretch.k, Tensor):
            total.add(eight_bit_attention(small, k, v, attention))
        else:
            total.add(attention())
        # Freed before the next span is decoded.
        del k, v, attention
    if working is None:
        return total.out
    k, v = (x[:, heads] for x in working)
    if isinstance(rotate, Rope):
        k = apply_rope(k, rotate, layer.next_frame)
    elif rotate is not None:
        k = rotate(k, layer.next_frame)
    if stretches:
        total = Total(Partial(_unfold(total.out, copies), _unfold(total.lse, copies)))
    total.add(partial_attention(query, k.to(choice.dtype), v.to(choice.dtype), choice.attention))
    return total.out


@torch.no_grad()
def attend_chosen(
    queries: Sequence[Tensor], layer: LayerCache, blocks: Sequence[int], prepare: Prepare
) -> list[Tensor]:
    """Returns the attention of each of `queries` [B, H, Q, D] over some blocks and the staged block.

    `blocks` are rising numbers of visible blocks; each is decoded once for all queries. Frames are numbered
    among the chosen blocks, from 0 without gaps; the staged block comes last. `prepare(k, v, first_frame)`
    takes consecutive whole frames and returns keys and values for each of `queries`, in their order; it must
    not write to k or v. Results have the shape and dtype of their queries. Raises ValueError for blocks that
    cannot be read, and when there is nothing to attend to.
    """
    choice = layer.choice
    asked = [q.to(choice.dtype) for q in queries]
    totals = [Total() for _ in queries]
    with layer.read_clock.running():
        for first_frame, k, v in layer.chosen(blocks, choice.dtype):
            for total, q, (keys, values) in zip(totals, asked, prepare(k, v, first_frame), strict=True):
                total.add(
                    partial_attention(q, keys.to(choice.dtype), values.to(choice.dtype), choice.attention)
                )
            # Freed before the next span is decoded.
            del k, v
    if any(total.empty for total in totals):
        raise ValueError("there is nothing to attend to: stage a block first")
    return [total.out.to(q.dtype) for total, q in zip(totals, queries, strict=True)]


def _head_groups(q: Tensor, stretches: Sequence[HistorySlice]) -> list[slice]:
    """Returns groups of heads that go through the history together, so small that STREAM_BYTES suffice."""
    heads = q.shape[1]
    longest = max((stretch.tokens for stretch in stretches), default=0)
    bytes_per_head = 2 * q.shape[0] * longest * q.shape[3] * q.element_size()
    if q.device.type == "cpu" or heads * bytes_per_head <= STREAM_BYTES:
        return [slice(0, heads)]
    size = max(1, min(STREAM_BYTES // bytes_per_head, -(-heads // 2)))
    return [slice(first, min(first + size, heads)) for first in range(0, heads, size)]


def _copies(q: Tensor, layer: LayerCache, working: tuple[Tensor, Tensor] | None) -> int:
    """Returns how many items of q share an item of the history. Raises ValueError where shapes disagree."""
    batch, heads, head_dim = layer.heads_shape
    shared = 1 if working is None else max(1, q.shape[0] // batch)
    if (q.shape[0], q.shape[1], q.shape[3]) != (shared * batch, heads, head_dim):
        raise ValueError(f"q is {tuple(q.shape)}, but the cache holds [B, H, D] = {list(layer.heads_shape)}")
    for name, x in zip("KV", working or (), strict=False):
        if x.ndim != 4 or (*x.shape[:2], x.shape[3]) != (*q.shape[:2], q.shape[3]):
            raise ValueError(f"the working {name} is {tuple(x.shape)}, but q is {tuple(q.shape)}")
    return shared


def _fold(x: Tensor, copies: int) -> Tensor:
    """Reshapes [n * B, H, Q, D] to [B, H, n * Q, D]; a view where possible."""
    return x.unflatten(0, (copies, -1)).permute(1, 2, 0, 3, 4).flatten(2, 3) if copies > 1 else x


def _unfold(x: Tensor, copies: int) -> Tensor:
    """Reshapes [B, H, n * Q, ...] to [n * B, H, Q, ...]."""
    return x.unflatten(2, (copies, -1)).movedim(2, 0).flatten(0, 1) if copies > 1 else x
