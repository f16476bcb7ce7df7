"""Spec of HY-WorldPlay on Wan2.2 5B: a picture to walk through. Nothing here loads torch."""

from __future__ import annotations

from dataclasses import replace

from backends.base import BackendSpec, Mode
from backends.hub import artifacts
from backends.hub.artifacts import Artifact, File, Source
from backends.wan.spec import LOADING_BYTES, UMT5, UMT5_TOKENIZER
from qvg.config import CacheGeometry
from qvg.policy import CachePolicy

LATENTS = 4  # per block
KEPT_READ = 12  # blocks read of those kept: 48 latents, as in Quant VideoGen's script

# Spans of 8 latents as in the paper's experiments, and of 16 if nothing is dropped. Once the full history is
# read, a block takes 598, 754 and 2,325 TFLOP.
MODES = (
    Mode(
        id="recompute",
        title="Encode anew, as released",
        about=(
            "Before every block, what it will see is encoded anew: the 12 newest latents and the 4 that saw "
            "most of what comes, however long ago. A block costs the same at any length, and the KV cache "
            "holds no more than is read."
        ),
        policy=CachePolicy(every=2, window=4, grows=True, fine=True),
    ),
    Mode(
        id="incremental",
        title="Encode once and keep",
        about=(
            "A block is encoded once, and its keys and values stay in the KV cache: 48 latents are read for "
            "about a quarter more computation than 16 encoded anew. It is not how the model was trained, and "
            "keys of old blocks know nothing of what came later."
        ),
        policy=CachePolicy(every=4, grows=True, fine=True),
    ),
    Mode(
        id="frozen",
        title="As in Quant VideoGen's experiments",
        about=(
            "48 latents are encoded anew before every block, and only the newest block's keys and values are "
            "kept of it. Four times the computation of the first choice; for comparisons with the paper."
        ),
        policy=CachePolicy(every=4, grows=True, fine=True),
    ),
)

LICENSE = (
    "Tencent HY-WorldPlay community licence: not for use in the European Union, the United Kingdom and South "
    "Korea, and with terms of its own (https://huggingface.co/tencent/HY-WorldPlay)."
)
TRANSFORMER = Artifact(
    id="worldplay-5b",
    title="HY-WorldPlay 5B transformer",
    purpose="Denoises four latent frames in four steps, in sight of chosen ones before them.",
    license=LICENSE,
    needs_acceptance=True,
    gated=True,  # according to some reports; a token does no harm otherwise
    source=Source(
        repo="tencent/HY-WorldPlay",
        revision="main",
        # Twice 5,293,225,152 numbers in FP32: the transformer and its average. The size is computed, not
        # listed.
        files=(File("wan_distilled_model/model.pt", 42_346_000_000, estimated=True),),
        path="wan_distilled_model/model.pt",
    ),
    converted="worldplay_5b-bf16.safetensors",
    converted_size=10_586_600_000,
)
VAE22 = Artifact(
    id="wan22-vae",
    title="Wan 2.2 video autoencoder",
    purpose="Turns the picture into a latent, and latents into frames.",
    license="Apache-2.0",
    source=Source(
        repo="Wan-AI/Wan2.2-TI2V-5B-Diffusers",
        revision="main",
        # 704,688,668 numbers in FP32; a header of some kilobytes.
        files=(
            File("vae/config.json"),
            File("vae/diffusion_pytorch_model.safetensors", 2_818_780_000, estimated=True),
        ),
        path="vae",
    ),
)
ARTIFACTS = (TRANSFORMER, UMT5, UMT5_TOKENIZER, VAE22)

# Bytes on the GPU during generation, beside the KV cache.
_MEMORY = (
    ("transformer", 10_587_000_000),
    ("prompt's keys and values", 189_000_000),
    ("video autoencoder", 1_410_000_000),
    ("decoder's memory of the video", 3_216_000_000),
    ("decoding a frame", 4_000_000_000),
    ("encoding what is seen, and denoising", 2_000_000_000),
    ("CUDA itself", 1_000_000_000),
)

SPEC = BackendSpec(
    id="worldplay",
    title="HY-WorldPlay 5B",
    summary="A picture becomes a world at 720p: walk with the keys, and places you return to are remembered.",
    needs="A 32 GB GPU and a 56.5 GB download, for which Hugging Face may ask for a token.",
    license=(
        "Weights: Tencent community licence, which does not cover the European Union, the United Kingdom and "
        "South Korea. Text encoder and VAE from Wan2.2: Apache-2.0."
    ),
    inputs=frozenset({"prompt", "image", "camera"}),
    width=1280,
    height=704,
    fps=16,
    latents_per_block=LATENTS,
    frames_per_block=16,
    first_block_frames=13,  # the causal VAE decodes the first latent to one frame
    default_blocks=12,
    max_blocks=250,  # the model has 1,024 positions: a history of 1,000 latents can be read as a whole
    weights_bytes=sum(artifact.size for artifact in ARTIFACTS),
    converted_bytes=TRANSFORMER.converted_size,
    loading_bytes=LOADING_BYTES,
    encoder_bytes=UMT5.size,
    working_bytes=sum(size for _, size in _MEMORY),
    memory=_MEMORY,
    prompt_bytes=24_400_000_000,  # the text encoder 11.4, with transformer, autoencoder and CUDA
    geometry=CacheGeometry(layers=30, heads=24, head_dim=128, tokens_per_frame=880),
    policy=MODES[0].policy,
    rebuilds_history=True,
    modes=MODES,
    examples=(
        "First-person view along a narrow street of an old Mediterranean town, whitewashed walls, blue "
        "doors, bougainvillea over the arches, warm evening light, a cat asleep on the steps.",
        "A quiet bamboo forest after rain, a stone path with moss between tall green stems, mist and shafts "
        "of morning sun, a small wooden shrine ahead.",
        "Inside a great old library: two storeys of dark wooden shelves, brass lamps, a spiral staircase, "
        "dust in the light of tall windows, marble floor.",
        "A snow-covered mountain village at dusk, wooden houses with lit windows, a frozen stream under a "
        "small bridge, pines, stars coming out above the peaks.",
    ),
)

# The size of random weights that tests and trials on a CPU run with.
TINY = replace(
    SPEC,
    width=224,
    height=128,
    weights_bytes=1,
    converted_bytes=0,
    loading_bytes=0,
    encoder_bytes=0,
    working_bytes=500_000_000,
    memory=(("everything", 500_000_000),),
    prompt_bytes=0,
    geometry=CacheGeometry(layers=4, heads=2, head_dim=64, tokens_per_frame=28),
    clusters=16,
)


def missing() -> str | None:
    """Returns why HY-WorldPlay cannot run here, as a sentence; None if it can."""
    return artifacts.missing(ARTIFACTS, "a 32 GB GPU", "worldplay")
