"""One softmax over the whole visible history and the staged block, a piece at a time.

The history never exists decoded all at once: each span is decoded, its keys are rotated, attended to and let
go, and the partial results are merged by their log-sum-exp.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from qvg.cache import LayerCache
from qvg.ops.attention import Partial, merge, partial_attention

Rotate = Callable[[Tensor, int], Tensor]
# k, v [B, H, S, D] as they were staged, and their first frame's number; keys and values of each attention
Prepare = Callable[[Tensor, Tensor, int], Sequence[tuple[Tensor, Tensor]]]


@torch.no_grad()
def attend(q: Tensor, layer: LayerCache, rotate: Rotate | None = None) -> Tensor:
    """Attention of q [B, H, Q, D] over everything `layer` can see; the result has q's shape and dtype.

    `q` is already rotated. `rotate(k, first_frame)` returns the keys k [B, H, S, D] of consecutive whole
    frames with their position applied; it must not write to k. `first_frame` counts frames ever committed,
    from 0. Raises ValueError when there is nothing to attend to.
    """
    batch, heads, _, head_dim = q.shape
    if (batch, heads, head_dim) != layer.heads_shape:
        raise ValueError(f"q is {tuple(q.shape)}, but the cache holds [B, H, D] = {list(layer.heads_shape)}")
    choice = layer.choice
    query = q.to(choice.dtype)
    total: Partial | None = None
    with layer.read_clock.running():
        for first_frame, k, v in layer.pieces(choice.dtype):
            if rotate is not None:
                k = rotate(k, first_frame).to(choice.dtype)
            piece = partial_attention(query, k, v, choice.attention)
            # Let go before the next span is decoded.
            del k, v
            total = merge(Partial(total.out.float(), total.lse), piece) if total else piece
    if total is None:
        raise ValueError("there is nothing to attend to: stage a block first")
    return total.out.to(q.dtype)


@torch.no_grad()
def attend_chosen(
    queries: Sequence[Tensor], layer: LayerCache, blocks: Sequence[int], prepare: Prepare
) -> list[Tensor]:
    """Several attentions, of `queries` [B, H, Q, D] each, over one reading of chosen blocks and the staged.

    `blocks` are rising numbers of visible blocks. Frames are counted among the chosen, from 0 and without
    gaps, the staged block's last. `prepare(k, v, first_frame)` is given whole frames that follow each other
    and returns keys and values for each of `queries`, in their order; it must not write to k or v. Results
    have the shape and dtype of their queries. Raises ValueError for blocks that cannot be read and when there
    are none.
    """
    choice = layer.choice
    asked = [q.to(choice.dtype) for q in queries]
    totals: list[Partial] = []
    with layer.read_clock.running():
        for first_frame, k, v in layer.chosen(blocks, choice.dtype):
            pieces = [
                partial_attention(q, keys.to(choice.dtype), values.to(choice.dtype), choice.attention)
                for q, (keys, values) in zip(asked, prepare(k, v, first_frame), strict=True)
            ]
            # Let go before the next span is decoded.
            del k, v
            if totals:
                pieces = [
                    merge(Partial(total.out.float(), total.lse), piece)
                    for total, piece in zip(totals, pieces, strict=True)
                ]
            totals = pieces
    if not totals:
        raise ValueError("there is nothing to attend to: stage a block first")
    return [total.out.to(q.dtype) for total, q in zip(totals, queries, strict=True)]
