"""Autoencoder between pictures and latents: 8x down in each direction, 12 channels.

It has no normalization layers, and is cheap on a CPU.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

LATENT_CHANNELS = 12
DOWN = 8


class Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.normal_(self.second.weight, std=1e-2 / channels**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(torch.relu(x))))


def _upscale(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, 4 * out, 3, padding=1), nn.PixelShuffle(2))


class Autoencoder(nn.Module):
    """Pictures [N, 3, H, W] in -1..1; latents [N, 12, H / 8, W / 8], zero mean and unit variance per channel.

    The batch norm between the halves, without affine part, fixes the scale of the latents: the diffusion
    model needs no constants of its own.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.PixelUnshuffle(2), nn.Conv2d(12, 48, 3, padding=1), Residual(48),
            nn.Conv2d(48, 96, 3, stride=2, padding=1), Residual(96),
            nn.Conv2d(96, 128, 3, stride=2, padding=1), Residual(128), Residual(128),
            nn.Conv2d(128, LATENT_CHANNELS, 3, padding=1),
        )  # fmt: skip
        self.norm = nn.BatchNorm2d(LATENT_CHANNELS, affine=False, momentum=0.02)
        self.decoder = nn.Sequential(
            nn.Conv2d(LATENT_CHANNELS, 128, 3, padding=1), Residual(128), Residual(128), Residual(128),
            _upscale(128, 96), Residual(96), Residual(96),
            _upscale(96, 48), Residual(48), Residual(48),
            nn.Conv2d(48, 12, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip

    def encode(self, pictures: Tensor) -> Tensor:
        return self.norm(self.encoder(pictures).float()).to(pictures.dtype)

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents)
