"""Pocket World's loaded models: autoencoder and transformer, on one device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from backends.pocket.autoencoder import Autoencoder
from backends.pocket.spec import BLOCK_FRAMES, SPEC
from backends.pocket.transformer import Rotary, Transformer


@dataclass(frozen=True, slots=True, eq=False)
class Models:
    """The loaded models and where they run."""

    autoencoder: Autoencoder
    transformer: Transformer
    rotary: Rotary
    device: torch.device
    dtype: torch.dtype

    @torch.inference_mode()
    def encode(self, pictures: Tensor) -> Tensor:
        """Returns latents [N, 12, H / 8, W / 8] of pictures [N, 3, H, W] in 0..1."""
        pictures = (pictures.to(self.device, self.dtype) * 2 - 1).contiguous(
            memory_format=torch.channels_last
        )
        return self.autoencoder.encode(pictures)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Returns pictures [N, 3, H, W] in 0..1, fp32."""
        latents = latents.to(self.dtype).contiguous(memory_format=torch.channels_last)
        return (self.autoencoder.decode(latents).float() * 0.5 + 0.5).clamp(0, 1)


def assemble(
    autoencoder: Autoencoder, transformer: Transformer, device: torch.device, dtype: torch.dtype
) -> Models:
    """Combines loaded models, with rotary positions for the longest video."""
    rotary = Rotary(SPEC.max_blocks * BLOCK_FRAMES, device, dtype)
    return Models(autoencoder, transformer, rotary, device, dtype)
