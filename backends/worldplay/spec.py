"""HY-WorldPlay on Wan2.2 5B: a picture to walk through. Nothing here loads torch."""

from __future__ import annotations

from backends.base import BackendSpec
from qvg.config import CacheGeometry
from qvg.policy import CachePolicy

SPEC = BackendSpec(
    id="worldplay",
    title="HY-WorldPlay 5B",
    summary="A picture becomes a world at 720p: walk with the keys, and places you return to are remembered.",
    needs="A 32 GB GPU and a 56.5 GB download.",
    licence=(
        "Weights: Tencent community licence, which does not cover the European Union, the United Kingdom and "
        "South Korea. Text encoder and VAE from Wan2.2: Apache-2.0."
    ),
    inputs=frozenset({"prompt", "image", "camera"}),
    width=1280,
    height=704,
    fps=16,
    latents_per_block=4,
    frames_per_block=16,
    first_block_frames=13,  # the causal VAE decodes the first latent to one frame
    default_blocks=12,
    max_blocks=60,  # upstream draws noise for 241 latents
    weights_bytes=56_500_000_000,  # transformer with its EMA copy 42.3 (fp32), UMT5 11.4, VAE 2.8
    working_bytes=21_400_000_000,  # transformer 9.9, decoder 1.0, its state 3.0, transients 6.0 GiB
    geometry=CacheGeometry(layers=30, heads=24, head_dim=128, tokens_per_frame=880),
    # Spans of 8 latents as in the paper's experiments. No window: revisited places are found in all of it.
    policy=CachePolicy(every=2),
)


def missing() -> str | None:
    """Why HY-WorldPlay cannot run here, as a sentence; None when it can."""
    return "Not downloaded: needs 56.5 GB of weights and a 32 GB GPU."
