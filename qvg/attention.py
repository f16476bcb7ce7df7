"""One softmax over the whole visible history and the staged block, a piece at a time.

The history never exists decoded all at once: each span is decoded, its keys are rotated, attended to and let
go, and the partial results are merged by their log-sum-exp.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qvg.cache import LayerCache
from qvg.ops.attention import Partial, merge, partial_attention

Rotate = Callable[[Tensor, int], Tensor]


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
