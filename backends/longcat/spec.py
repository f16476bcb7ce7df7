"""Spec and files of LongCat-Video 13.6B: long videos, one continuation after another. No torch here."""

from __future__ import annotations

from dataclasses import replace

from backends.base import BackendSpec, Option, WindowHistory
from backends.hub import artifacts
from backends.hub.artifacts import Artifact, File, Source
from backends.longcat.settings import CONDITION, FPS, WINDOW, latents_of
from backends.wan.spec import LOADING_BYTES, UMT5, UMT5_TOKENIZER, VAE21
from qvg.config import CacheGeometry
from qvg.policy import CachePolicy

HEIGHT, WIDTH = 480, 832
_REPO = "meituan-longcat/LongCat-Video"

TRANSFORMER = Artifact(
    id="longcat-dit",
    title="LongCat-Video transformer",
    purpose="Denoises clips and continuations of 13.6 billion parameters.",
    license="MIT",
    source=Source(
        repo=_REPO,
        revision="main",
        files=(
            File("dit/config.json"),
            # Sizes follow from the 1,022 tensors in FP32, split at 10 GB as diffusers does.
            *(
                File(f"dit/diffusion_pytorch_model-0000{shard}-of-00006.safetensors", size, estimated=True)
                for shard, size in enumerate(
                    (
                        9_932_992_033,
                        9_976_453_939,
                        9_955_431_689,
                        9_821_180_997,
                        9_925_990_785,
                        4_712_351_825,
                    ),
                    start=1,
                )
            ),
        ),
        path="dit",
    ),
    converted="longcat_video-bf16.safetensors",
    converted_size=27_162_300_000,
)

ADAPTER = Artifact(
    id="longcat-distilled",
    title="LongCat-Video distillation adapter",
    purpose="Makes 16 denoising steps without guidance do what 50 with it do.",
    license="MIT",
    optional=True,
    source=Source(
        repo=_REPO,
        revision="main",
        # 630 million parameters of rank 128 in FP32.
        files=(File("lora/cfg_step_lora.safetensors", 2_520_000_000, estimated=True),),
        path="lora/cfg_step_lora.safetensors",
    ),
)

# The text encoder and the autoencoder are Wan's, as in ModelScope's DiffSynth-Studio.
ARTIFACTS = (TRANSFORMER, ADAPTER, UMT5, UMT5_TOKENIZER, VAE21)

# Bytes on a 32 GB GPU beside the KV cache.
_MEMORY = (
    ("transformer, 8 bits a weight", 14_200_000_000),
    ("adapter of the distilled model", 1_260_000_000),
    ("prompts' keys and values", 500_000_000),
    ("video autoencoder", 254_000_000),
    ("denoising a clip or a continuation", 3_500_000_000),
    ("CUDA itself", 1_073_000_000),
)

SPEC = BackendSpec(
    id="longcat",
    title="LongCat-Video 13.6B",
    summary=f"Prompt or picture to long video at 480p: each continuation attends to the {CONDITION} frames "
    "before it.",
    needs="A 32 GB GPU and a 68.7 GB download.",
    license="Code and weights: MIT. Text encoder and autoencoder of the Wan family: Apache-2.0.",
    inputs=frozenset({"prompt", "image", "clip", "changes"}),
    width=WIDTH,
    height=HEIGHT,
    fps=FPS,
    latents_per_block=latents_of(WINDOW) - latents_of(CONDITION),
    frames_per_block=WINDOW - CONDITION,
    first_block_frames=WINDOW,  # the clip that is continued, generated in one piece
    default_blocks=11,  # the clip and ten continuations, 293 frames
    max_blocks=60,
    weights_bytes=sum(artifact.size for artifact in ARTIFACTS),
    converted_bytes=TRANSFORMER.converted_size,
    loading_bytes=LOADING_BYTES,
    encoder_bytes=UMT5.size,
    working_bytes=sum(size for _, size in _MEMORY),
    memory=_MEMORY,
    prompt_bytes=28_000_000_000,  # the text encoder 11.9, with the transformer and the rest there
    geometry=CacheGeometry(layers=48, heads=32, head_dim=128, tokens_per_frame=HEIGHT * WIDTH // 256),
    policy=CachePolicy(every=1),
    history=WindowHistory(latents_of(CONDITION)),
    options=(
        Option(name="distilled", title="Distilled sampling", values=("no", "yes")),
        Option(name="source", title="Looks back on", values=("re-encoded", "kept", "latents")),
        Option(name="projection", title="Guidance compares", values=("upstream", "consistent")),
    ),
    examples=(
        "In a realistic photography style, a red fox walks along a snowy forest path at dawn, its breath "
        "visible in the cold air, the camera following at its side.",
        "A skateboarder in a yellow jacket rolls down a long empty street by the sea at sunset, the low sun "
        "behind palm trees, seen from a car driving beside.",
        "A potter's hands shape a spinning bowl of wet clay in a sunlit workshop, water runs over the "
        "fingers, close-up, warm colours.",
    ),
)

# The size of random weights that tests and trials on a CPU run with.
TINY = replace(
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
    history=WindowHistory(3),
    clusters=16,
)


def missing() -> str | None:
    """Returns why LongCat-Video cannot run here, as a sentence; None if it can."""
    return artifacts.missing(ARTIFACTS, "a 32 GB GPU", "longcat")
