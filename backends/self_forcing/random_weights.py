"""Random weights and prompt embeddings for Self-Forcing, at full size or at one that a CPU can run."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from backends.base import BackendSpec
from backends.self_forcing import spec
from backends.self_forcing.models import Models, assemble
from backends.self_forcing.transformer import Transformer, WanConfig
from backends.wan import checkpoint, taehv, vae
from qvg import choose

_GEOMETRY = spec.TINY.geometry
TINY = WanConfig(
    width=_GEOMETRY.heads * _GEOMETRY.head_dim,
    ffn_width=384,
    heads=_GEOMETRY.heads,
    layers=_GEOMETRY.layers,
    text_width=48,
    text_length=32,
    time_width=64,
)
_TINY_VAE = {"base_dim": 4, "num_res_blocks": 1}
_TINY_WIDTHS = (16, 16, 8, 8)


class RandomPrompts:
    """Embeddings seeded by the prompt, zero after its words like real ones."""

    def __init__(self, config: WanConfig) -> None:
        self._length, self._width = config.text_length, config.text_width

    def embed(self, prompt: str) -> Tensor:
        seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:6], "big")
        embedding = torch.randn(1, self._length, self._width, generator=torch.Generator().manual_seed(seed))
        embedding[:, len(prompt.split()) + 1 :] = 0
        return embedding


def make(device: torch.device, tiny: bool) -> tuple[Models, BackendSpec]:
    """Returns models with random weights and their spec: `spec.TINY` if `tiny`."""
    config, described = (TINY, spec.TINY) if tiny else (WanConfig(), spec.SPEC)
    dtype = choose(device, config.head_dim).dtype
    with torch.device("meta"):
        transformer = Transformer(config)
        preview = taehv.TinyDecoder(_TINY_WIDTHS) if tiny else taehv.TinyDecoder()
    autoencoder = vae.build(_TINY_VAE if tiny else {})
    for seed, module in enumerate((transformer, autoencoder, preview)):
        checkpoint.fill_randomly(module, device, dtype, seed)
    models = assemble(transformer, vae.VAE(autoencoder), preview, RandomPrompts(config), described)
    return models, described
