"""HY-WorldPlay on Wan2.2 5B: a picture to walk through. Nothing here loads torch."""

from __future__ import annotations

from dataclasses import replace

from backends.base import BackendSpec, Mode
from qvg.config import CacheGeometry
from qvg.policy import CachePolicy

LATENTS = 4  # a block
KEPT_READ = 12  # blocks that are read of those kept: 48 latents, as in Quant VideoGen's script

# Spans of 8 latents as in the paper's experiments. Once all that may be is read, a block takes 598, 754 and
# 2,325 TFLOP.
MODES = (
    Mode(
        id="recompute",
        title="Encode anew, as released",
        about=(
            "Before every block, what it will see is encoded anew: the 12 newest latents and the 4 that saw "
            "most of what comes, however long ago. A block costs the same at any length, and the KV cache "
            "holds no more than is read."
        ),
        policy=CachePolicy(every=2, window=4),
    ),
    Mode(
        id="incremental",
        title="Encode once and keep",
        about=(
            "A block is encoded once, and its keys and values stay in the KV cache: 48 latents are read for "
            "about a quarter more computation than 16 encoded anew. It is not how the model was trained, and "
            "keys of old blocks know nothing of what came later."
        ),
        policy=CachePolicy(every=2),
    ),
    Mode(
        id="frozen",
        title="As in Quant VideoGen's experiments",
        about=(
            "48 latents are encoded anew before every block, and only the newest block's keys and values are "
            "kept of it. Four times the computation of the first choice; for comparisons with the paper."
        ),
        policy=CachePolicy(every=2),
    ),
)

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
    latents_per_block=LATENTS,
    frames_per_block=16,
    first_block_frames=13,  # the causal VAE decodes the first latent to one frame
    default_blocks=12,
    max_blocks=250,  # the model knows 1,024 positions: a history of 1,000 latents can be read whole
    weights_bytes=56_500_000_000,  # transformer with its averaged copy 42.3 (fp32), UMT5 11.4, VAE 2.8
    working_bytes=21_400_000_000,  # transformer 9.9, decoder 1.0, its state 3.0, transients 6.0 GiB
    geometry=CacheGeometry(layers=30, heads=24, head_dim=128, tokens_per_frame=880),
    policy=MODES[0].policy,
    modes=MODES,
)

# The same program at a size that a CPU runs, for tests and for trying out a page: its weights are random.
TINY = replace(
    SPEC,
    width=224,
    height=128,
    weights_bytes=1,
    working_bytes=500_000_000,
    geometry=CacheGeometry(layers=4, heads=2, head_dim=64, tokens_per_frame=28),
    clusters=16,
)


def missing() -> str | None:
    """Why HY-WorldPlay cannot run here, as a sentence; None when it can."""
    return "Not downloaded: needs 56.5 GB of weights and a 32 GB GPU."
