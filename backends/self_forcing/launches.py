"""Kernel launches of Self-Forcing."""

from __future__ import annotations

from backends.base import BackendSpec
from qvg.config import CodecConfig
from qvg.launches import launches_of_blocks, rope_like
from qvg.ops.ahead import Launch
from qvg.ops.card import Card
from qvg.policy import CachePolicy

BY_FRAME = 22  # of 64 rotated channel pairs, those for the frame's position: Wan2.1's model.py


def launches(
    described: BackendSpec, codec: CodecConfig, policy: CachePolicy, card: Card, mode: str
) -> dict[Launch, None]:
    """Returns the launches of videos on `card`."""
    geometry = described.geometry
    frames = described.max_blocks * described.latents_per_block
    return launches_of_blocks(
        geometry,
        codec,
        policy,
        card,
        frames_per_block=described.latents_per_block,
        rotate=rope_like(frames, geometry.tokens_per_frame, geometry.head_dim, BY_FRAME),
    )
