"""Random weights and prompt embeddings for HY-WorldPlay, at full size or at one that a CPU can run."""

from __future__ import annotations

import zlib

import torch
from torch import Tensor

from backends.wan import checkpoint, text, vae
from backends.worldplay import spec, weights
from backends.worldplay.model import ModelConfig
from backends.worldplay.models import Models, assemble
from qvg import choose

# Wan-AI/Wan2.2-TI2V-5B-Diffusers, vae/config.json, without the statistics of its latents
VAE = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
}


def make(device: torch.device, tiny: bool) -> Models:
    """Returns models with random weights, of the size of `spec.TINY` if `tiny`."""
    described = spec.TINY if tiny else spec.SPEC
    geometry = described.geometry
    config, autoencoder = ModelConfig(), VAE
    if tiny:
        config = ModelConfig(
            layers=geometry.layers,
            heads=geometry.heads,
            head_dim=geometry.head_dim,
            channels=4,
            text_width=32,
            ffn_width=256,
            frequencies=64,
        )
        autoencoder = {**VAE, "base_dim": 8, "decoder_base_dim": 8, "z_dim": 4, "num_res_blocks": 1}
    dtype = choose(device, geometry.head_dim).dtype
    transformer = weights.build(config)
    channels = config.channels
    model = vae.build({**autoencoder, "latents_mean": [0.0] * channels, "latents_std": [1.0] * channels})
    for seed, module in enumerate((transformer, model)):
        checkpoint.fill_randomly(module, device, dtype, seed)

    def embed(prompt: str) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(prompt.encode()))
        return torch.randn(1, text.LENGTH, config.text_width, generator=generator)

    return assemble(described, transformer, vae.VAE(model), embed, device)
