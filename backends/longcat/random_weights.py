"""Random weights and prompt embeddings for LongCat-Video, at full size or at one that a CPU can run."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from backends.base import BackendSpec
from backends.longcat import lora, spec, weights
from backends.longcat.image_latents import SIZES
from backends.longcat.lora import Delta
from backends.longcat.models import Models
from backends.longcat.parallel import ALONE, Team
from backends.longcat.settings import FULL, TINY_SETTINGS, Settings
from backends.longcat.transformer import LongCatConfig, Transformer
from backends.longcat.weights import Precision
from backends.wan import checkpoint, vae
from qvg import choose

RANK = 128  # of the published adapter
TINY = LongCatConfig(
    width=256, layers=2, heads=2, text_width=48, text_length=32, time_width=32, frequencies=64
)
_TINY_VAE = {"base_dim": 8, "num_res_blocks": 1}
# The published adapter's targets: all of a block's large matrices but the last of cross-attention.
_TARGETS = {"attn.qkv": 3, "attn.proj": 1, "cross_attn.q_linear": 1, "cross_attn.kv_linear": 2}
_TARGETS |= {"ffn.w1": 1, "ffn.w2": 1, "ffn.w3": 1}


def make(
    device: torch.device,
    tiny: bool,
    precision: Precision = "bf16",
    team: Team = ALONE,
    adapter: bool = True,
    beside: Sequence[torch.device] = (),
) -> tuple[Models, Settings, BackendSpec]:
    """Returns models with random weights, and the settings and spec that go with their size."""
    config, settings, described = LongCatConfig(), FULL, spec.SPEC
    if tiny:
        config, settings, described = TINY, TINY_SETTINGS, spec.TINY
    dtype = choose(device, config.head_dim).dtype
    transformer = weights.build_random(config, (device, *beside), dtype, precision)
    autoencoder = vae.build(_TINY_VAE if tiny else {})
    checkpoint.fill_randomly(autoencoder, device, dtype, seed=1)
    switch = lora.put_beside(transformer, deltas(transformer, 4 if tiny else RANK)) if adapter else None

    def embed(prompts: list[str]) -> list[Tensor]:
        return [_embedding(prompt, config) for prompt in prompts]

    sizes = ((described.height, described.width),) if tiny else SIZES
    return Models(transformer, vae.VAE(autoencoder), embed, switch, team, sizes), settings, described


def deltas(model: Transformer, rank: int) -> dict[str, Delta]:
    """Returns a random adapter shaped like the published one, on the model's device."""

    def draw(*shape: int) -> Tensor:
        made = torch.empty(shape, device=model.device, dtype=model.dtype)
        return made.normal_(0, shape[-1] ** -0.5, generator=generator)

    generator = torch.Generator(model.device).manual_seed(2)
    made = {}
    for index, block in enumerate(model.blocks):
        for name, parts in _TARGETS.items():
            linear = block.get_submodule(name)
            down = draw(parts, rank, linear.in_features)
            up = draw(parts, linear.out_features // parts, rank)
            made[f"blocks.{index}.{name}"] = Delta(down, up, lora.ALPHA_SCALE)
    return made


def _embedding(prompt: str, config: LongCatConfig) -> Tensor:
    """Returns an embedding [L, C] seeded by the prompt: one token per word and one for the end."""
    seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:6], "big")
    tokens = min(len(prompt.split()) + 1, config.text_length)
    return torch.randn(tokens, config.text_width, generator=torch.Generator().manual_seed(seed))
