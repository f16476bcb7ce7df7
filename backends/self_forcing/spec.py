"""Spec of Self-Forcing: Wan2.1 1.3B distilled to four steps per block. Nothing here loads torch."""

from __future__ import annotations

from dataclasses import replace

from backends.base import BackendSpec
from backends.hub import artifacts
from backends.hub.artifacts import Artifact, File, Source
from backends.wan.spec import LOADING_BYTES, TAEHV21, UMT5, UMT5_TOKENIZER, VAE21
from qvg.config import CacheGeometry
from qvg.policy import CachePolicy

TRANSFORMER = Artifact(
    id="self-forcing-dmd",
    title="Self-Forcing transformer",
    purpose="Denoises a block of frames in four steps, attending to all frames before it.",
    license="CC BY-NC-SA 4.0 by its model card: non-commercial use, shared under the same terms.",
    needs_acceptance=True,
    source=Source(
        repo="gdhe17/Self-Forcing",
        revision="2f8b779212da279d212c22a509b66ad6552f350e",
        files=(
            File(
                "checkpoints/self_forcing_dmd.pt",
                5_676_252_553,
                "a0413986d9734e02c09504e1520f5697ba6df731bb2f0f35577485e9cc8f56a3",
            ),
        ),
        path="checkpoints/self_forcing_dmd.pt",
    ),
    converted="self_forcing_dmd-bf16.safetensors",
    converted_size=2_838_100_000,
)
ARTIFACTS = (TRANSFORMER, UMT5, UMT5_TOKENIZER, VAE21, TAEHV21)

# Bytes on the GPU during generation, beside the KV cache. Decoding overlaps denoising: both count.
_MEMORY = (
    ("transformer", 2_838_000_000),
    ("prompt's keys and values", 94_000_000),
    ("video decoder", 254_000_000),
    ("decoder's memory of the video", 1_889_000_000),
    ("decoding a frame", 2_160_000_000),
    ("denoising a block", 860_000_000),
    ("CUDA itself", 1_073_000_000),
)

SPEC = BackendSpec(
    id="self_forcing",
    title="Self-Forcing",
    summary="Prompt to video at 480p, four denoising steps a block, attending to all it has made.",
    needs="A 24 GB GPU and a 17.6 GB download.",
    license=(
        "Weights: CC BY-NC-SA 4.0 (non-commercial, share-alike) by their model card. "
        "Text encoder and VAE from Wan2.1: Apache-2.0. Preview decoder: MIT."
    ),
    inputs=frozenset({"prompt", "clip", "changes", "preview"}),
    width=832,
    height=480,
    fps=16,
    latents_per_block=3,
    frames_per_block=12,
    first_block_frames=9,  # the causal VAE decodes the first latent to one frame
    default_blocks=8,  # 24 latents, whole spans; the model was trained with 21
    max_blocks=341,  # the model's rotary table has 1024 rows
    weights_bytes=sum(artifact.size for artifact in ARTIFACTS),
    converted_bytes=TRANSFORMER.converted_size,
    loading_bytes=LOADING_BYTES,
    encoder_bytes=UMT5.size,
    working_bytes=sum(size for _, size in _MEMORY),
    memory=_MEMORY,
    prompt_bytes=16_100_000_000,  # the text encoder 11.9, with the transformer, the VAE and CUDA
    geometry=CacheGeometry(layers=30, heads=12, head_dim=128, tokens_per_frame=1560),
    # Spans of 24 latents, as in the paper's experiments: a full one takes 1/6.97 of BF16's bytes.
    policy=CachePolicy(every=8, grows=True, fine=True),
    examples=(
        "A red fox trots along a snowy forest path at dawn, low sun behind the pines, its breath visible in "
        "the cold air, snow crystals drifting past the camera, shallow depth of field, tracking shot.",
        "Aerial view of a lighthouse on a rocky island in a storm: waves break white against the cliffs, the "
        "beam sweeps through heavy rain, dark clouds move fast, slow orbit of the camera.",
        "A potter's hands shape a spinning bowl of wet grey clay on a wheel in a sunlit workshop, water and "
        "slip run over the fingers, dust floats in the light, close-up, warm colours.",
        "A small red tram climbs a steep cobbled street in Lisbon in the late afternoon, laundry moves in "
        "the wind between tiled facades, people step aside, handheld camera, film grain.",
    ),
)

# The size of random weights that tests and trials on a CPU run with.
TINY = replace(
    SPEC,
    width=96,
    height=64,
    weights_bytes=12_000_000,
    working_bytes=300_000_000,
    memory=(("everything", 300_000_000),),
    prompt_bytes=0,
    geometry=CacheGeometry(layers=2, heads=2, head_dim=128, tokens_per_frame=24),
    policy=CachePolicy(every=2, grows=True, fine=True),
    clusters=16,
)


def missing() -> str | None:
    """Returns why Self-Forcing cannot run here, as a sentence; None if it can."""
    return artifacts.missing(ARTIFACTS, "a 24 GB GPU", "self-forcing")
