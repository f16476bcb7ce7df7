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
def attend(
    q: Tensor,
    layer: LayerCache,
    rotate: Rotate | None = None,
    working: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Attention of q [B, H, Q, D] over everything `layer` can see; the result has q's shape and dtype.

    `q` is already rotated. `rotate(k, first_frame)` returns the keys k [B, H, S, D] of consecutive whole
    frames with their position applied; it must not write to k. `first_frame` counts frames ever committed,
    from 0.

    `working` are keys, not rotated, and values [B', H, S, D] of the block being denoised, in place of the one
    staged: nothing need be staged. B' may be a multiple of the cache's batch B, as for the branches of
    guidance, item i belonging to item i % B. They share the history, which is decoded and rotated once and
    never repeated: their queries attend to it together, and each to its own working block.

    Raises ValueError when there is nothing to attend to.
    """
    copies = _copies(q, layer, working)
    choice = layer.choice
    query = q.to(choice.dtype)
    total: Partial | None = None
    with layer.read_clock.running():
        together = _fold(query, copies)
        for first_frame, k, v in layer.pieces(choice.dtype, staged=working is None):
            if rotate is not None:
                k = rotate(k, first_frame).to(choice.dtype)
            piece = partial_attention(together, k, v, choice.attention)
            # Let go before the next span is decoded.
            del k, v
            total = merge(Partial(total.out.float(), total.lse), piece) if total else piece
        if total is not None:
            total = Partial(_unfold(total.out, copies), _unfold(total.lse, copies))
        if working is not None:
            k, v = working
            if rotate is not None:
                k = rotate(k, layer.next_frame)
            piece = partial_attention(query, k.to(choice.dtype), v.to(choice.dtype), choice.attention)
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


def _copies(q: Tensor, layer: LayerCache, working: tuple[Tensor, Tensor] | None) -> int:
    """How many items of q share an item of the history. Raises ValueError where shapes do not agree."""
    batch, heads, head_dim = layer.heads_shape
    shared = 1 if working is None else max(1, q.shape[0] // batch)
    if (q.shape[0], q.shape[1], q.shape[3]) != (shared * batch, heads, head_dim):
        raise ValueError(f"q is {tuple(q.shape)}, but the cache holds [B, H, D] = {list(layer.heads_shape)}")
    for name, x in zip("KV", working or (), strict=False):
        if x.ndim != 4 or (*x.shape[:2], x.shape[3]) != (*q.shape[:2], q.shape[3]):
            raise ValueError(f"the working {name} is {tuple(x.shape)}, but q is {tuple(q.shape)}")
    return shared


def _fold(x: Tensor, copies: int) -> Tensor:
    """[n * B, H, Q, D] -> [B, H, n * Q, D]; a view where tokens lie together."""
    return x.unflatten(0, (copies, -1)).permute(1, 2, 0, 3, 4).flatten(2, 3) if copies > 1 else x


def _unfold(x: Tensor, copies: int) -> Tensor:
    """[B, H, n * Q, ...] -> [n * B, H, Q, ...]"""
    return x.unflatten(2, (copies, -1)).movedim(2, 0).flatten(0, 1) if copies > 1 else x
