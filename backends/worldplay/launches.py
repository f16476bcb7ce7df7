"""Kernel launches of HY-WorldPlay."""

from __future__ import annotations

import torch
from torch import Tensor

from backends.base import BackendSpec
from backends.worldplay.cameras import Projections
from backends.worldplay.context import Context
from backends.worldplay.models import POSITIONS
from backends.worldplay.rollout import MEMORIES
from qvg import LayerCache
from qvg.config import CodecConfig
from qvg.launches import META, launches_of_blocks, launches_of_rewriting, rope_like
from qvg.ops.ahead import Launch
from qvg.ops.card import Card
from qvg.policy import CachePolicy

BY_FRAME = 22  # of 64 rotated channel pairs, those for the frame's position


def launches(
    described: BackendSpec, codec: CodecConfig, policy: CachePolicy, card: Card, mode: str
) -> dict[Launch, None]:
    """Returns the launches of videos on `card`; `mode` is one of the spec's, "" its first."""
    geometry, frames = described.geometry, described.latents_per_block
    rope = rope_like(POSITIONS, geometry.tokens_per_frame, geometry.head_dim, BY_FRAME)
    window = policy.window or 2 * policy.every

    def read(layer: LayerCache, q: Tensor) -> None:
        blocks = tuple(range(max(0, layer.blocks - window), layer.blocks))
        matrices = torch.empty((len(blocks) + 1) * frames, 4, 4, device=META)
        context = Context(blocks, frames, Projections(matrices, matrices, matrices), rope)
        context.over(layer, q)
        if blocks:
            # All blocks that are read, if they are encoded again.
            q, k, v = (torch.cat([q] * len(blocks), 2) for _ in "qkv")
            context.among_themselves(q, k, v, layer.choice)

    memory = MEMORIES[mode or described.modes[0].id]
    if memory.refresh == "recompute":
        return launches_of_rewriting(
            geometry, codec, policy, card, frames_per_block=frames, blocks=window, read=read
        )
    return launches_of_blocks(geometry, codec, policy, card, frames_per_block=frames, read=read)
