"""Self-Forcing as small as a CPU likes it, as the page and the worker see it. Nothing here loads torch."""

from __future__ import annotations

import dataclasses

from backends.self_forcing.spec import SPEC
from qvg.config import CacheGeometry
from qvg.policy import CachePolicy

LAYERS, HEADS, HEAD_DIM = 2, 2, 128
HEIGHT, WIDTH = 64, 96

TINY_SPEC = dataclasses.replace(
    SPEC,
    width=WIDTH,
    height=HEIGHT,
    weights_bytes=12_000_000,
    working_bytes=300_000_000,
    memory=(("everything", 300_000_000),),
    prompt_bytes=0,
    geometry=CacheGeometry(
        layers=LAYERS, heads=HEADS, head_dim=HEAD_DIM, tokens_per_frame=(HEIGHT // 16) * (WIDTH // 16)
    ),
    policy=CachePolicy(every=2),
    clusters=16,
)
