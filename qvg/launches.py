"""Which kernels a cache launches, found by using one without memory: nothing here is listed by hand.

The cache, its codecs and attention run as they always do, on tensors of the device "meta", and every launch
is noted (`qvg.ops.ahead`). Two spans are encoded: the first from nothing, the second from the one before.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qvg.attention import Rotate, attend, attend_chosen
from qvg.cache import KVCache
from qvg.config import CacheGeometry, CodecConfig
from qvg.layer import LayerCache
from qvg.ops.ahead import Launch, noted
from qvg.ops.card import Card
from qvg.policy import CachePolicy
from qvg.rope import Rope

META = torch.device("meta")
SPANS = 2
# q [B, H, Q, D] attends to what the layer holds
Read = Callable[[LayerCache, Tensor], object]


def launches_of_blocks(
    geometry: CacheGeometry,
    codec: CodecConfig,
    policy: CachePolicy,
    card: Card,
    *,
    frames_per_block: int,
    rotate: Rotate | None = None,
    read: Read | None = None,
) -> dict[Launch, None]:
    """Launches on `card` of a history that grows block by block, each once.

    `rotate` as in `qvg.attend`; `read` is called in place of it. Raises ValueError as `KVCache` does.
    """
    with noted(card) as launches:
        cache = KVCache(geometry, codec, policy, frames_per_block=frames_per_block, device=META)
        first = policy.sink + policy.recent
        last = first + SPANS * policy.every
        if policy.window is not None:
            last = max(last, policy.window + policy.every)
        k, v, q = (_tokens(geometry, frames_per_block) for _ in "kvq")
        for number in range(last + 1):
            for index in range(geometry.layers):
                layer = cache.layer(index)
                layer.stage(k, v)
                # What is read changes with the spans, and with the blocks of one that grows.
                if number in (0, last - policy.every, last) or (policy.grows and number <= first + 2):
                    attend(q, layer, rotate) if read is None else read(layer, q)
            if number < last:
                cache.commit()
    return launches


def launches_of_context(
    geometry: CacheGeometry,
    codec: CodecConfig,
    policy: CachePolicy,
    card: Card,
    *,
    frames: int,
    new_frames: int,
    rotate: Rotate | None = None,
    branches: int = 1,
) -> dict[Launch, None]:
    """Launches on `card` of a history of `frames` given whole, which `branches` of `new_frames` read."""
    with noted(card) as launches:
        cache = KVCache(geometry, codec, policy, frames_per_block=new_frames, device=META)
        for _ in range(SPANS):
            for index in range(geometry.layers):
                k, v = (_tokens(geometry, frames) for _ in "kv")
                cache.layer(index).preload(k, v, frames)
            cache.commit()
        k, v, q = (_tokens(geometry, new_frames, branches) for _ in "kvq")
        for index in range(geometry.layers):
            attend(q, cache.layer(index), rotate, (k, v))
    return launches


def launches_of_rewriting(
    geometry: CacheGeometry,
    codec: CodecConfig,
    policy: CachePolicy,
    card: Card,
    *,
    frames_per_block: int,
    blocks: int,
    read: Read | None = None,
) -> dict[Launch, None]:
    """Launches on `card` of a history of 1 to `blocks` blocks that is encoded anew before each is read.

    `read` is called in place of one attention over all blocks.
    """
    with noted(card) as launches:
        cache = KVCache(geometry, codec, policy, frames_per_block=frames_per_block, device=META)
        block = [_tokens(geometry, frames_per_block) for _ in "kvq"]
        for count in range(1, blocks + 1):
            k, v = (_tokens(geometry, count * frames_per_block) for _ in "kv")
            for index in range(geometry.layers):
                layer = cache.layer(index)
                cache.rewrite(index, k, v)
                layer.stage(*block[:2])
                if read is None:
                    attend_chosen([block[2]], layer, range(count), lambda k, v, _: [(k, v)])
                else:
                    read(layer, block[2])
    return launches


def rope_like(frames: int, tokens_per_frame: int, head_dim: int, by_frame: int) -> Rope:
    """A rotary table without numbers, of which `by_frame` pairs of channels tell frames apart."""
    return Rope(
        torch.empty(frames, by_frame, 2, device=META),
        torch.empty(tokens_per_frame, head_dim // 2 - by_frame, 2, device=META),
    )


def _tokens(geometry: CacheGeometry, frames: int, batch: int = 1) -> Tensor:
    """bf16 [B, H, S, D], a token's heads side by side as projections leave them."""
    shape = (batch, frames * geometry.tokens_per_frame, geometry.heads, geometry.head_dim)
    return torch.empty(shape, dtype=torch.bfloat16, device=META).transpose(1, 2)
