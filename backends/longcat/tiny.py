"""LongCat-Video at a size a CPU can run, as the page sees it. Nothing here loads torch."""

from __future__ import annotations

import dataclasses

from backends.longcat.settings import Settings
from backends.longcat.spec import SPEC
from qvg.config import CacheGeometry

TINY_SETTINGS = Settings(steps=2, window=13, condition_frames=9)
TINY_SPEC = dataclasses.replace(
    SPEC,
    width=96,
    height=64,
    latents_per_block=1,
    frames_per_block=4,
    first_block_frames=13,
    default_blocks=3,
    weights_bytes=10_000_000,
    working_bytes=300_000_000,
    memory=(("everything", 300_000_000),),
    prompt_bytes=0,
    geometry=CacheGeometry(layers=2, heads=2, head_dim=128, tokens_per_frame=24),
    context_latents=3,
    clusters=16,
)
