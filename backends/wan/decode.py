"""Decoding of a video's frames while its next block is being denoised.

On a GPU decoding has a stream of its own, with priority over denoising: frames are ready soon after their
latents. On a CPU it happens at once.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from backends.base import NonFiniteLatents
from backends.wan.vae import to_pixels
from qvg import Clock


class Decoder(Protocol):
    """The decoder of one video, from its first latent on."""

    def decode(self, latents: Tensor) -> Tensor:
        """Returns video [B, T, 3, H, W] in -1..1 of the next latents [B, F, C, h, w]."""
        ...


class Decoding:
    """Decoder of one video's blocks in the background: `start` one, do something else, `finish` it."""

    def __init__(self, decoder: Decoder, device: torch.device) -> None:
        self._decoder = decoder
        self._device = device
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        self._clock = Clock(device)
        self._frames: Tensor | None = None
        self._sound: Tensor | None = None  # bool: whether the latents were finite
        self._done: torch.cuda.Event | None = None

    @torch.inference_mode()
    def start(self, latents: Tensor) -> None:
        """Begins to decode the next latents [1, F, C, h, w], which the current stream computes."""
        self._clock = Clock(self._device)
        if self._stream is None:
            with self._clock.running():
                self._frames = to_pixels(self._decoder.decode(latents)[0])
            self._sound = latents.isfinite().all()
            return
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        # Its memory may be reused only after this stream has read it, too.
        latents.record_stream(self._stream)
        with torch.cuda.stream(self._stream):
            with self._clock.running():
                pixels = to_pixels(self._decoder.decode(latents)[0])
            self._frames = torch.empty(pixels.shape, dtype=torch.uint8, pin_memory=True)
            self._frames.copy_(pixels, non_blocking=True)
            self._sound = torch.empty((), dtype=torch.bool, pin_memory=True)
            self._sound.copy_(latents.isfinite().all(), non_blocking=True)
            self._done = torch.cuda.Event(blocking=True)
            self._done.record(self._stream)

    def finish(self) -> np.ndarray:
        """Returns the started block as uint8 [T, H, W, 3], waiting for the decoding stream alone.

        Raises NonFiniteLatents.
        """
        assert self._frames is not None and self._sound is not None
        if self._done is not None:
            self._done.synchronize()
        if not self._sound:
            raise NonFiniteLatents
        frames, self._frames, self._done = self._frames, None, None
        return frames.numpy()

    @property
    def ms(self) -> float:
        """Returns the milliseconds that the last `start` took, once finished."""
        return self._clock.ms
