"""LongCat-Video 13.6B: long videos, one continuation after another. Nothing here loads torch."""

from __future__ import annotations

from backends.base import BackendSpec, Option
from backends.longcat.settings import CONDITION, FPS, WINDOW, latents_of
from qvg.config import CacheGeometry
from qvg.policy import CachePolicy

HEIGHT, WIDTH = 480, 832

SPEC = BackendSpec(
    id="longcat",
    title="LongCat-Video 13.6B",
    summary=f"Prompt or picture to long video at 480p: each continuation attends to the {CONDITION} frames "
    "before it.",
    needs="A 32 GB GPU and an 83 GB download.",
    licence="Code and weights: MIT. Text encoder and VAE from the Wan family: Apache-2.0.",
    inputs=frozenset({"prompt", "image"}),
    width=WIDTH,
    height=HEIGHT,
    fps=FPS,
    latents_per_block=latents_of(WINDOW) - latents_of(CONDITION),
    frames_per_block=WINDOW - CONDITION,
    first_block_frames=WINDOW,  # the clip that is continued, made in one piece
    default_blocks=11,  # the clip and ten continuations, 293 frames
    max_blocks=60,
    weights_bytes=83_000_000_000,  # transformer 54.3 (fp32), UMT5 22.7 (fp32), VAE 0.5, two LoRAs
    working_bytes=19_800_000_000,  # transformer 13.7 (int8), adapter 1.4, VAE 0.25, activations 4 to 5
    geometry=CacheGeometry(layers=48, heads=32, head_dim=128, tokens_per_frame=HEIGHT * WIDTH // 256),
    policy=CachePolicy(every=1),
    context_latents=latents_of(CONDITION),
    options=(
        Option(name="distilled", title="Distilled sampling", values=("no", "yes")),
        Option(name="source", title="Looks back on", values=("re-encoded", "kept", "latents")),
        Option(name="projection", title="Guidance compares", values=("upstream", "consistent")),
    ),
    examples=(
        "In a realistic photography style, a red fox walks along a snowy forest path at dawn, its breath "
        "visible in the cold air, the camera following at its side.",
        "A skateboarder in a yellow jacket rolls down a long empty street by the sea at sunset.\n---\n"
        "The skateboarder jumps over a kerb and rides on towards a lighthouse.",
    ),
)


def missing() -> str | None:
    """Why LongCat-Video cannot run here, as a sentence; None when it can."""
    return "Not downloaded: needs 83 GB of weights and a 32 GB GPU."
