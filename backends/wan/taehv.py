"""TAEHV, a decoder of Wan's latents that is 25 times cheaper and a little softer: for previews.

It is Ollin Boer Bohan's tiny autoencoder (github.com/madebyollin/taehv, MIT). Frames are decoded in parallel;
the only state between them is the last input of each block, kept from call to call.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backends.base import BackendUnavailable
from backends.wan import checkpoint

WIDTHS = (256, 128, 64, 64)
LATENT_CHANNELS = 16
_TIME_GROWTH = (1, 2, 2)
_UNDECIDED = 3  # of the first latent's frames, which come before the video's first one


class Squash(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x / 3) * 3


class MemoryBlock(nn.Module):
    """Three convolutions over a frame and the one before it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(2 * width, width), nn.ReLU(), _conv(width, width), nn.ReLU(), _conv(width, width)
        )

    def forward(self, x: Tensor, before: Tensor) -> Tensor:
        """Returns [N, C, h, w] of x, before [N, C, h, w]."""
        return F.relu(self.conv(torch.cat([x, before], 1)) + x)


class TimeGrowth(nn.Module):
    """Temporal upsampling: every frame becomes `stride` frames."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(width, width * stride, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Returns [N * stride, C, h, w] of x [N, C, h, w]."""
        grown = self.conv(x)
        return grown.reshape(-1, x.shape[1], *x.shape[2:])


class TinyDecoder(nn.Module):
    """The decoder, with names and order of the published file: `decoder.<place>.<name>`."""

    def __init__(self, widths: tuple[int, ...] = WIDTHS, channels: int = LATENT_CHANNELS) -> None:
        super().__init__()
        layers: list[nn.Module] = [Squash(), _conv(channels, widths[0]), nn.ReLU()]
        for width, narrower, stride in zip(widths[:-1], widths[1:], _TIME_GROWTH, strict=True):
            layers += [MemoryBlock(width), MemoryBlock(width), MemoryBlock(width)]
            layers += [nn.Upsample(scale_factor=2), TimeGrowth(width, stride)]
            layers.append(nn.Conv2d(width, narrower, 3, padding=1, bias=False))
        layers += [nn.ReLU(), _conv(widths[-1], 3)]
        self.decoder = nn.Sequential(*layers)

    def stream(self) -> TinyStream:
        """Returns a decoder for one video, from its first latent on."""
        return TinyStream(self)


class TinyStream:
    """The decoder of one video. Latents are the transformer's, without mean and deviation."""

    def __init__(self, model: TinyDecoder) -> None:
        self._model = model
        self._before: dict[int, Tensor] = {}
        self._started = False

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Returns video [B, T, 3, H, W] in -1..1 of the next latents [B, F, C, h, w].

        The first latent gives 1 frame, the others 4 each.
        """
        batch = len(latents)
        parameter = next(self._model.parameters())
        x = latents.to(parameter.device, parameter.dtype).flatten(0, 1)
        for place, layer in enumerate(self._model.decoder):
            if isinstance(layer, MemoryBlock):
                frames = x.unflatten(0, (batch, -1))
                before = self._before.get(place)
                if before is None:
                    before = torch.zeros_like(frames[:, :1])
                shifted = torch.cat([before, frames[:, :-1]], 1).flatten(0, 1)
                self._before[place] = frames[:, -1:].clone()
                x = layer(x, shifted)
            else:
                x = layer(x)
        video = x.unflatten(0, (batch, -1)).clamp(0, 1) * 2 - 1
        skipped = 0 if self._started else _UNDECIDED
        self._started = True
        return video[:, skipped:]


def load(weights: Path, device: torch.device | str, dtype: torch.dtype) -> TinyDecoder:
    """Loads `taew2_1.pth` or `.safetensors`. Raises BackendUnavailable for another file."""
    named = checkpoint.bare(checkpoint.read(weights))
    tensors = {name: tensor for name, tensor in named.items() if name.startswith("decoder.")}
    with torch.device("meta"):
        model = TinyDecoder()
    expected = model.state_dict()
    for name, tensor in tensors.items():
        # In files with growth in every layer, the frames that a stride of 1 omits come first.
        if name in expected and name.endswith(".conv.weight") and len(tensor) > len(expected[name]):
            tensors[name] = tensor[-len(expected[name]) :]
    try:
        checkpoint.fill(model, tensors, device, dtype)
    except BackendUnavailable as error:
        raise BackendUnavailable(f"{weights} is not TAEHV for Wan 2.1: {error}") from error
    return model


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)
