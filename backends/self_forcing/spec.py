"""Self-Forcing: Wan2.1 1.3B distilled to four steps a block. Nothing here loads torch."""

from __future__ import annotations

from backends.base import BackendSpec
from qvg.config import CacheGeometry
from qvg.policy import CachePolicy

SPEC = BackendSpec(
    id="self_forcing",
    title="Self-Forcing",
    summary="Prompt to video at 480p, four denoising steps a block, attending to all it has made.",
    needs="A 24 GB GPU and a 17.5 GB download.",
    licence=(
        "Weights: CC BY-NC-SA 4.0 (non-commercial, share-alike) by their model card. "
        "Text encoder and VAE from Wan2.1: Apache-2.0."
    ),
    inputs=frozenset({"prompt"}),
    width=832,
    height=480,
    fps=16,
    latents_per_block=3,
    frames_per_block=12,
    first_block_frames=9,  # the causal VAE decodes the first latent to one frame
    default_blocks=7,  # 21 latents, the length it was trained at
    max_blocks=341,  # its rotary table has 1024 rows
    weights_bytes=17_548_000_000,  # transformer 5.68 (fp32), UMT5 11.36 (bf16), VAE 0.508
    working_bytes=8_200_000_000,  # GiB: transformer 2.7, decoder 1.9, decoding 2, context 1
    geometry=CacheGeometry(layers=30, heads=12, head_dim=128, tokens_per_frame=1560),
    policy=CachePolicy(every=8),  # spans of 24 latents, 37,440 tokens, as in the paper's experiments
)


def missing() -> str | None:
    """Why Self-Forcing cannot run here, as a sentence; None when it can."""
    return "Not downloaded: needs 17.5 GB of weights and a 24 GB GPU."
