"""Wan's video autoencoder, one latent frame at a time: decoding never waits for later frames.

diffusers' `decode` drops its state at every call. Its decoder takes the state as an argument, so each video
keeps its own here and several can be decoded in turn. diffusers' private names are used in this file only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from backends.base import BackendUnavailable
from backends.hub import files
from backends.wan import checkpoint

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

T = TypeVar("T")
LATENT_FRAMES = 4  # video frames a latent decodes to; the first one decodes to 1
_FRAMES_AT_ONCE = 32  # of a clip being resized


class VAE:
    """The autoencoder with its latents scaled to unit variance, as the transformers expect."""

    def __init__(self, model: AutoencoderKLWan) -> None:
        self.model = model
        parameter = next(model.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype
        config: Any = model.config
        self.channels: int = config.z_dim
        self.scale: int = config.scale_factor_spatial  # pixels per latent cell, each way
        self._patch: int | None = config.patch_size
        self._mean, self._std = (
            torch.tensor(values, device=self.device).view(-1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )

    @torch.inference_mode()
    def encode(self, video: Tensor) -> Tensor:
        """Returns the most likely latents, fp32 [B, F, C, h, w], of video [B, T, 3, H, W] in -1..1.

        T = 4F - 3. Raises ValueError for other lengths.
        """
        if video.shape[1] % LATENT_FRAMES != 1:
            raise ValueError(
                f"{video.shape[1]} frames do not become whole latents: give 1, 5, 9 or another 4n + 1"
            )
        pixels = rearrange(video.to(self.device, self.dtype), "b t c h w -> b c t h w")
        posterior = self.model.encode(pixels, return_dict=False)[0]
        latents = rearrange(posterior.mode(), "b c f h w -> b f c h w").float()
        return (latents - self._mean) / self._std

    def stream(self) -> StreamingDecoder:
        """Returns a decoder for one video, from its first latent on."""
        return StreamingDecoder(self)

    @torch.inference_mode()
    def decode_latent(self, latent: Tensor, state: list[Tensor | str | None]) -> Tensor:
        """Returns video [B, T, 3, H, W] in -1..1 of the next latent [B, C, h, w].

        `state` is empty before a video's first latent; then it contains the last inputs of causal
        convolutions.
        """
        first = not state
        if first:
            state.extend([None] * self.model._cached_conv_counts["decoder"])
        z = (latent.to(self.device).float() * self._std + self._mean).to(self.dtype).unsqueeze(2)
        x = self.model.decoder(
            self.model.post_quant_conv(z), feat_cache=state, feat_idx=[0], first_chunk=first
        )
        if self._patch is not None:
            # Channels are ordered (colour, column, row) in diffusers' patches.
            x = rearrange(x, "b (c q p) t h w -> b c t (h p) (w q)", p=self._patch, q=self._patch)
        return rearrange(x.clamp(-1, 1), "b c t h w -> b t c h w")


class StreamingDecoder:
    """The decoder of one video: the same frames, bit for bit, as decoding all of it at once."""

    def __init__(self, vae: VAE) -> None:
        self._vae = vae
        self._state: list[Tensor | str | None] = []

    def decode(self, latents: Tensor) -> Tensor:
        """Returns video [B, T, 3, H, W] in -1..1 of the next latents [B, F, C, h, w].

        The first latent gives 1 frame, the others 4 each.
        """
        return torch.cat([self._vae.decode_latent(latent, self._state) for latent in latents.unbind(1)], 1)


def to_pixels(video: Tensor) -> Tensor:
    """Returns uint8 [T, H, W, 3] of video [T, 3, H, W] in -1..1."""
    return rearrange(
        (video.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8), "t c h w -> t h w c"
    )


def from_pixels(frames: np.ndarray, height: int, width: int, device: torch.device | str) -> Tensor:
    """Returns video fp32 [T, 3, height, width] in -1..1 on `device`, of the middle of uint8 [T, H, W, 3]."""
    scale = max(height / frames.shape[1], width / frames.shape[2])
    size = (max(height, round(frames.shape[1] * scale)), max(width, round(frames.shape[2] * scale)))
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    fitted = []
    for some in np.array_split(frames, -(-len(frames) // _FRAMES_AT_ONCE)):
        video = rearrange(torch.from_numpy(np.ascontiguousarray(some)).to(device), "t h w c -> t c h w")
        video = F.interpolate(video.float(), size=size, mode="bilinear", antialias=True)
        fitted.append(video[..., top : top + height, left : left + width] / 127.5 - 1)
    return torch.cat(fitted).clamp(-1, 1)


def load(weights: Path, device: torch.device | str, dtype: torch.dtype) -> VAE:
    """Loads the autoencoder in `weights`: a folder as diffusers publishes it, or Wan's `Wan2.1_VAE.pth`.

    Raises BackendUnavailable if it cannot be read.
    """
    described = weights / "config.json"
    try:
        model = build(files.read_json(described) if described.is_file() else {})
    except (TypeError, ValueError, AttributeError, LookupError, RuntimeError) as error:
        raise files.damaged(described, f"it describes no autoencoder of Wan's: {error}") from error
    checkpoint.fill(model, with_diffusers_names(checkpoint.bare(checkpoint.scan(weights))), device, dtype)
    return VAE(model)


def build(config: dict[str, Any], device: str = "meta") -> AutoencoderKLWan:
    """Returns the autoencoder without weights, for a configuration read as diffusers reads it.

    Fields that the class does not know are dropped and logged; missing ones have the class's defaults, which
    are Wan2.1's. Raises ValueError for the configuration of another class.
    """
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    named = config.get("_class_name", AutoencoderKLWan.__name__)
    if named != AutoencoderKLWan.__name__:
        raise ValueError(f"it is that of {named}, not of {AutoencoderKLWan.__name__}")
    with torch.device(device):
        return AutoencoderKLWan.from_config(config)  # pyright: ignore[reportReturnType]


def with_diffusers_names(tensors: Mapping[str, T]) -> Mapping[str, T]:
    """Renames Wan2.1's own layout; diffusers' passes through."""
    if "conv2.weight" not in tensors:
        return tensors
    return {_diffusers_name(name): tensor for name, tensor in tensors.items()}


_HALVES = {"conv1": "quant_conv", "conv2": "post_quant_conv"}
_MIDDLE = {"0": "resnets.0", "1": "attentions.0", "2": "resnets.1"}
_LEAVES = {
    "residual.0": "norm1",
    "residual.2": "conv1",
    "residual.3": "norm2",
    "residual.6": "conv2",
    "shortcut": "conv_shortcut",
}


def _diffusers_name(name: str) -> str:
    """Returns diffusers' name.

    Raises BackendUnavailable for a name that Wan2.1's autoencoder does not have.
    """
    try:
        return _renamed(name)
    except (KeyError, ValueError):
        raise BackendUnavailable(
            f"the weights hold {name}, which Wan2.1's autoencoder does not have."
        ) from None


def _renamed(name: str) -> str:
    half, _, rest = name.partition(".")
    if half in _HALVES:
        return f"{_HALVES[half]}.{rest}"
    part, _, inner = rest.partition(".")
    if part == "conv1":
        return f"{half}.conv_in.{inner}"
    number, _, leaf = inner.partition(".")
    if part == "head":
        return f"{half}.{'norm_out' if number == '0' else 'conv_out'}.{leaf}"
    for old, new in _LEAVES.items():
        leaf = re.sub(rf"^{re.escape(old)}\.", f"{new}.", leaf)
    if part == "middle":
        return f"{half}.mid_block.{_MIDDLE[number]}.{leaf}"
    if part == "downsamples":
        return f"{half}.down_blocks.{number}.{leaf}"
    # Wan numbers all parts of the decoder in sequence; four of them make one of diffusers' blocks.
    block, place = divmod(int(number), 4)
    inside = f"resnets.{place}" if place < 3 else "upsamplers.0"
    return f"{half}.up_blocks.{block}.{inside}.{leaf}"
