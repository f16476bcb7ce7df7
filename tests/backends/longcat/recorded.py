"""What the authors' own classes computed: tests/data/longcat.safetensors and longcat_names.txt.

Recorded in FP32 on a CPU from meituan-longcat/LongCat-Video at 6b3f4b8, with flash-attn replaced by torch's
attention, for the model, the text and the latents of `longcat_samples`. Pipelines ran with embeddings in
place of UMT5, a tiny autoencoder, and pictures of HEIGHT x WIDTH instead of upstream's sizes.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from backends.longcat.models import Models
from backends.longcat.transformer import Transformer
from backends.wan import vae as wan_vae
from tests.backends.longcat import samples
from tests.backends.wan.samples import VAE21

DATA = Path(__file__).resolve().parents[2] / "data"
PROMPT, NEGATIVE = "a red fox", "night"
EMBEDDINGS = {PROMPT: ("positive", 9), NEGATIVE: ("negative", 5), "": ("empty", 1)}


@lru_cache(maxsize=1)
def _recorded() -> dict[str, Tensor]:
    return load_file(DATA / "longcat.safetensors")


def recorded(name: str) -> Tensor:
    return _recorded()[name]


def names() -> dict[str, tuple[int, ...]]:
    """Every parameter of the published model with its shape; the file holds the first of equal blocks."""
    shapes = {}
    for line in (DATA / "longcat_names.txt").read_text().splitlines():
        name, *shape = line.split()
        blocks = range(48) if name.startswith("blocks.0.") else range(1)
        for block in blocks:
            shapes[name.replace("blocks.0.", f"blocks.{block}.")] = tuple(map(int, shape))
    return shapes


def embed(prompts: list[str]) -> list[Tensor]:
    return [samples.prompt(*EMBEDDINGS[prompt]) for prompt in prompts]


@lru_cache(maxsize=1)
def vae() -> wan_vae.VAE:
    model = wan_vae.build(VAE21, "cpu")
    samples.fill(model, "vae.")
    return wan_vae.VAE(model)


@lru_cache(maxsize=1)
def transformer() -> Transformer:
    return samples.transformer()


def models(**parts) -> Models:
    """Everything tiny, with the weights and embeddings upstream was recorded with."""
    for name, make in (("transformer", transformer), ("vae", vae), ("embed", lambda: embed)):
        if name not in parts:
            parts[name] = make()
    return Models(sizes=((samples.HEIGHT, samples.WIDTH),), **parts)


def frames() -> np.ndarray:
    """uint8 [13, H, W, 3]"""
    noise = samples.values("frames", (13, samples.HEIGHT, samples.WIDTH, 3))
    return ((noise * 0.25 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
