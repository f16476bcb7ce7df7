"""Conversion between pictures and latents: upstream's sizes, and the autoencoder in both directions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from backends.base import NonFiniteLatents
from backends.wan.vae import VAE, to_pixels

# (height, width) of pictures at 480p; the one whose ratio is nearest is used (utils/bukcet_config.py).
SIZES = (
    (320, 1216), (352, 1120), (384, 1024), (416, 960), (448, 864), (480, 832), (512, 768),
    (544, 736), (576, 672), (608, 640), (640, 608), (672, 576), (704, 544), (736, 544),
    (768, 512), (800, 480), (832, 480), (896, 448), (960, 416), (992, 384), (1056, 384),
    (1088, 352), (1184, 320), (1216, 320), (1248, 320), (1280, 320),
)  # fmt: skip


def nearest_size(height: int, width: int, sizes: tuple[tuple[int, int], ...] = SIZES) -> tuple[int, int]:
    """Returns the (height, width) in `sizes` at which a picture of this shape is generated."""
    # Upstream compares ratios rounded to two decimals.
    return min(sizes, key=lambda size: abs(round(size[0] / size[1], 2) - height / width))


def resized(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Returns uint8 [T, H, W, 3] at `size` (height, width), slightly stretched to the nearest size."""
    if frames.shape[1:3] == size:
        return frames
    pictures = (Image.fromarray(frame).resize(size[::-1], Image.Resampling.LANCZOS) for frame in frames)
    return np.stack([np.asarray(picture) for picture in pictures])


@torch.inference_mode()
def encode(vae: VAE, frames: np.ndarray, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Returns latents [1, C, F, h, w] in `dtype` of uint8 frames [4F - 3, H, W, 3], sampled as upstream does.

    `VAE.encode` instead takes the most likely latents. The scaling is in the transformer's precision.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(frames)).to(vae.device)
    # As diffusers' VideoProcessor: to 0..1, then to -1..1, then to the model's dtype.
    video = rearrange(pixels.float() / 255 * 2 - 1, "t h w c -> 1 c t h w").to(vae.dtype)
    posterior = vae.model.encode(video, return_dict=False)[0]
    latents = posterior.sample(generator).to(dtype)
    config = vae.model.config
    mean, std = (
        torch.tensor(values, device=vae.device).view(1, -1, 1, 1, 1)
        for values in (config.latents_mean, config.latents_std)
    )
    return (latents - mean.to(dtype)) * (1 / std).to(dtype)


def decode(vae: VAE, latents: Tensor, state: list[Tensor | str | None]) -> Iterator[np.ndarray]:
    """Yields uint8 frames [T, H, W, 3] for each latent of [1, C, F, h, w]: 1 for the video's first, then 4.

    `state` is the decoder's: empty before a video's first latent, updated by each. Raises NonFiniteLatents.
    """
    if not bool(latents.isfinite().all()):
        raise NonFiniteLatents
    for latent in latents.unbind(2):
        yield to_pixels(vae.decode_latent(latent, state)[0]).cpu().numpy()
