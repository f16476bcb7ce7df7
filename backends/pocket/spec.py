"""Spec of Pocket World: a small world model that is part of the program. Nothing here loads torch."""

from __future__ import annotations

from pathlib import Path

from backends.base import BackendSpec
from backends.hub import files
from backends.pocket.vocabulary import VOCABULARY
from qvg.config import CacheGeometry
from qvg.policy import CachePolicy

WEIGHTS = Path(__file__).resolve().parents[2] / "assets" / "pocket"
AUTOENCODER = "autoencoder.safetensors"
TRANSFORMER = ("transformer-00001-of-00002.safetensors", "transformer-00002-of-00002.safetensors")
FILES = (AUTOENCODER, *TRANSFORMER)

HEIGHT, WIDTH, FPS = 128, 224, 12
BLOCK_FRAMES = 4
PATCH = 16  # pixels per token: 8x autoencoder, 2x2 latent patches
ROWS, COLUMNS = HEIGHT // PATCH, WIDTH // PATCH

SPEC = BackendSpec(
    id="pocket",
    title="Pocket World",
    summary="A small walkable world that runs anywhere: prompt or picture in, camera path out.",
    needs="Included. Runs on any CPU.",
    license="Apache-2.0",
    inputs=frozenset({"prompt", "image", "camera"}),
    width=WIDTH,
    height=HEIGHT,
    fps=FPS,
    latents_per_block=BLOCK_FRAMES,
    frames_per_block=BLOCK_FRAMES,
    default_blocks=12,
    max_blocks=120,
    metres_per_latent=0.12,
    degrees_per_latent=2.5,
    resumable=True,
    weights_bytes=20_500_000,
    working_bytes=800_000_000,
    geometry=CacheGeometry(layers=8, heads=2, head_dim=128, tokens_per_frame=ROWS * COLUMNS),
    policy=CachePolicy(every=6, grows=True, fine=True),
    clusters=64,
    vocabulary=VOCABULARY,
    examples=(
        "a red box on the left, two blue pillars far, snow, dusk",
        "a green ball near on the right, a pink cone, desert",
        "three purple boxes and a yellow ball, meadow, day",
        "a cyan pillar left, an orange ball behind, stone, dusk",
        "a yellow cone and a pink ball, snow, night",
    ),
)


def missing() -> str | None:
    """Returns why Pocket World cannot run here, as a sentence; None if it can."""
    absent = [name for name in FILES if not files.whole(WEIGHTS / name)]
    if not absent:
        return None
    return f"Its weights are incomplete ({', '.join(absent)} not in {WEIGHTS}): clone the repository again."
