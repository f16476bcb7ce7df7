"""LongCat-Video 13.6B: long videos, one continuation after another. Nothing here loads torch."""

from __future__ import annotations

from backends.base import BackendSpec
from qvg.config import CacheGeometry
from qvg.policy import CachePolicy

SPEC = BackendSpec(
    id="longcat",
    title="LongCat-Video 13.6B",
    summary="Prompt to long video at 480p: each continuation attends to the 73 frames before it.",
    needs="A 32 GB GPU and an 83 GB download.",
    licence="Code and weights: MIT. Text encoder and VAE from the Wan family: Apache-2.0.",
    inputs=frozenset({"prompt"}),
    width=832,
    height=480,
    fps=15,
    latents_per_block=5,
    frames_per_block=20,
    first_block_frames=93,  # the clip that is continued: 24 latents made in one piece
    default_blocks=11,  # the clip and ten continuations, 293 frames
    max_blocks=60,
    weights_bytes=83_000_000_000,  # transformer 54.3 (fp32), UMT5 22.7 (fp32), VAE 0.5, two LoRAs
    working_bytes=19_800_000_000,  # transformer 13.7 (int8), VAE 0.25, activations 4 to 5, context 1 GB
    geometry=CacheGeometry(layers=48, heads=32, head_dim=128, tokens_per_frame=1560),
    # The cache is rebuilt for each continuation from its last 73 frames: 19 latents, counted as 20.
    policy=CachePolicy(every=1, window=4),
)


def missing() -> str | None:
    """Why LongCat-Video cannot run here, as a sentence; None when it can."""
    return "Not downloaded: needs 83 GB of weights and a 32 GB GPU."
