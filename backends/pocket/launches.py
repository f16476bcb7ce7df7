"""Kernel launches of Pocket World."""

from __future__ import annotations

from backends.base import BackendSpec
from qvg.config import CodecConfig
from qvg.launches import launches_of_blocks
from qvg.ops.ahead import Launch
from qvg.ops.card import Card
from qvg.policy import CachePolicy


def launches(
    described: BackendSpec, codec: CodecConfig, policy: CachePolicy, card: Card, mode: str
) -> dict[Launch, None]:
    """Returns the launches of videos on `card`. Keys are rotated by plain torch."""
    return launches_of_blocks(
        described.geometry,
        codec,
        policy,
        card,
        frames_per_block=described.latents_per_block,
        rotate=lambda k, first_frame: k,
    )
