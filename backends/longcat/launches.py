"""Kernel launches of LongCat-Video."""

from __future__ import annotations

from backends.base import BackendSpec, WindowHistory
from backends.longcat.attention import MAX_FRAMES
from qvg.config import CodecConfig
from qvg.launches import launches_of_context, rope_like
from qvg.ops.ahead import Launch
from qvg.ops.card import Card
from qvg.policy import CachePolicy

BY_FRAME = 22  # of 64 rotated channel pairs, those for the frame's position


def launches(
    described: BackendSpec, codec: CodecConfig, policy: CachePolicy, card: Card, mode: str
) -> dict[Launch, None]:
    """Returns the launches of continuations on `card`, with and without branches of guidance."""
    geometry = described.geometry
    assert isinstance(described.history, WindowHistory)
    found: dict[Launch, None] = {}
    for branches in (1, 2):
        found |= launches_of_context(
            geometry,
            codec,
            policy,
            card,
            frames=described.history.latents,
            new_frames=described.latents_per_block,
            rotate=rope_like(MAX_FRAMES, geometry.tokens_per_frame, geometry.head_dim, BY_FRAME),
            branches=branches,
        )
    return found
