"""Self-Forcing without its files: random weights and embeddings, at full scale or at one a CPU can run."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from backends.self_forcing.rollout import SelfForcingBackend, assemble
from backends.self_forcing.spec import SPEC
from backends.self_forcing.tiny import HEAD_DIM, HEADS, LAYERS, TINY_SPEC
from backends.self_forcing.transformer import Transformer, WanConfig
from backends.wan import checkpoint, taehv, vae
from qvg import choose

TINY = WanConfig(
    width=HEADS * HEAD_DIM,
    ffn_width=384,
    heads=HEADS,
    layers=LAYERS,
    text_width=48,
    text_length=32,
    time_width=64,
)
_TINY_VAE = {"base_dim": 4, "num_res_blocks": 1}
_TINY_WIDTHS = (16, 16, 8, 8)


class MadeUpPrompts:
    """Every prompt has an embedding of its own, zero after its words as real ones are."""

    def __init__(self, config: WanConfig) -> None:
        self._length, self._width = config.text_length, config.text_width

    def embed(self, prompt: str) -> Tensor:
        seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:6], "big")
        embedding = torch.randn(1, self._length, self._width, generator=torch.Generator().manual_seed(seed))
        embedding[:, len(prompt.split()) + 1 :] = 0
        return embedding


def make(device: torch.device, tiny: bool) -> SelfForcingBackend:
    config, described = (TINY, TINY_SPEC) if tiny else (WanConfig(), SPEC)
    dtype = choose(device, config.head_dim).dtype
    with torch.device("meta"):
        transformer = Transformer(config)
        preview = taehv.TinyDecoder(_TINY_WIDTHS) if tiny else taehv.TinyDecoder()
    autoencoder = vae.build(_TINY_VAE if tiny else {})
    for seed, module in enumerate((transformer, autoencoder, preview)):
        checkpoint.fill_randomly(module, device, dtype, seed)
    return assemble(transformer, vae.VAE(autoencoder), preview, MadeUpPrompts(config), described)
