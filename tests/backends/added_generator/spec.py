"""Mosaic: tiles whose colors follow those of the blocks before. Nothing here loads torch."""

from __future__ import annotations

from backends.base import BackendSpec
from qvg.config import CacheGeometry
from qvg.policy import CachePolicy

ROWS, COLUMNS = 2, 3  # tiles of a frame, one token each
TILE = 8  # pixels

SPEC = BackendSpec(
    id="mosaic",
    title="Mosaic",
    summary="Tiles whose colors follow those of the blocks before.",
    needs="Nothing. Runs on any CPU.",
    license="Apache-2.0",
    inputs=frozenset({"prompt"}),
    width=COLUMNS * TILE,
    height=ROWS * TILE,
    fps=8,
    latents_per_block=4,
    frames_per_block=4,
    default_blocks=2,
    max_blocks=64,
    weights_bytes=1,
    working_bytes=1 << 20,
    geometry=CacheGeometry(layers=2, heads=1, head_dim=64, tokens_per_frame=ROWS * COLUMNS),
    policy=CachePolicy(every=1),
    clusters=4,
    examples=("a mosaic",),
)


def missing() -> str | None:
    """Returns why it cannot run here, as a sentence; None when it can."""
    return None
