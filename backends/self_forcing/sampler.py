"""Four denoising steps per block, then a clean pass that writes the KV cache.

The configuration is the paper's (Self Forcing, arXiv 2506.08009; configs/self_forcing_dmd.yaml of its
repository). The authors' demo samples at shift 8, which is not what the checkpoint was distilled at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor

from backends.base import Tick
from backends.self_forcing.transformer import TextMemory, Transformer
from backends.wan.schedule import TRAIN_STEPS, add_noise, clean_latents, warped_steps
from qvg import Clock, KVCache, Rope, attend

SHIFT = 5.0
SIGMAS = tuple(warped_steps((1000, 750, 500, 250), SHIFT))  # timesteps 1000, 937.5, 833.3, 625

# fp32 noise of a shape, on the CPU
Draw = Callable[[tuple[int, ...]], Tensor]


class CachedHistory:
    """A `History` in a `KVCache`, read with rotated positions."""

    def __init__(self, cache: KVCache, rope: Rope) -> None:
        self._cache, self._rope = cache, rope

    def stage(self, layer: int, k: Tensor, v: Tensor) -> None:
        self._cache.layer(layer).stage(k, v)

    def attend(self, layer: int, q: Tensor) -> Tensor:
        return attend(self._rope(q, self._cache.frames), self._cache.layer(layer), self._rope)


class Sampler:
    """Denoises one video, block after block, once it has a text. `size` is (F, C, h, w) of a block's latents.

    `clock` times the model's passes; put another one in its place to time a part.
    """

    def __init__(
        self,
        transformer: Transformer,
        rope: Rope,
        cache: KVCache,
        size: tuple[int, int, int, int],
        draw: Draw,
    ) -> None:
        self._transformer, self._cache, self._size, self._draw = transformer, cache, size, draw
        self._history = CachedHistory(cache, rope)
        weight = transformer.head.head.weight
        self._device, self._dtype = weight.device, weight.dtype
        self.clock = Clock(self._device)
        self._throttle = LaunchThrottle(self._device)
        self._text: TextMemory = ()  # until the first prompt
        self._noisy: Tensor | None = None  # of the next block, if drawn
        self._ahead: Tensor | None = None  # the flow of its first pass, if launched

    def change_text(self, text: TextMemory) -> None:
        """Sets the text of the next and later blocks. The history of earlier blocks stays as it is."""
        self._text, self._ahead = text, None

    @torch.inference_mode()
    def launch(self) -> None:
        """Launches the next block's first pass, which a GPU computes while the caller does something else."""
        self._noisy = self._noise()
        self._ahead = self._predict(self._noisy, SIGMAS[0])

    @torch.inference_mode()
    def generate(self, tick: Tick) -> Tensor:
        """Returns clean latents [1, F, C, h, w] of the next block. `absorb` makes them history."""
        noisy = self._noise() if self._noisy is None else self._noisy
        flow, self._noisy, self._ahead = self._ahead, None, None
        clean = noisy
        for step, sigma in enumerate(SIGMAS):
            if flow is None:
                self._throttle.wait()
            tick(step, len(SIGMAS))
            if flow is None:
                flow = self._predict(noisy, sigma)
            clean = clean_latents(noisy, flow, sigma)
            flow = None
            if step + 1 < len(SIGMAS):
                noisy = add_noise(clean, self._noise(), SIGMAS[step + 1])
        return clean

    @torch.inference_mode()
    def absorb(self, latents: Tensor) -> None:
        """Appends clean latents [1, F, C, h, w] of one block to the history."""
        self._forward(latents.to(self._device, self._dtype), 0.0, output=False)
        self._cache.commit()

    def _predict(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        flow = self._forward(noisy, TRAIN_STEPS * float(sigma), output=True)
        assert flow is not None
        return flow

    def _forward(self, latents: Tensor, t: float, output: bool) -> Tensor | None:
        times = torch.full(latents.shape[:2], t, device=self._device)
        with self.clock.running():
            flow = self._transformer(latents, times, self._text, self._history, output)
        self._throttle.mark()
        return flow

    def _noise(self) -> Tensor:
        noise = self._draw((1, *self._size))
        if self._device.type == "cuda":
            noise = noise.pin_memory()
        return noise.to(self._device, non_blocking=True).to(self._dtype)


class LaunchThrottle:
    """Keeps a GPU at most one pass behind: always busy, with Stop and progress at most one pass early."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._passes: deque[torch.cuda.Event] = deque()

    def mark(self) -> None:
        """Records that a pass was launched."""
        if self._device.type == "cuda":
            event = torch.cuda.Event(blocking=True)
            event.record(torch.cuda.current_stream(self._device))
            self._passes.append(event)

    def wait(self) -> None:
        """Blocks until at most one launched pass is unfinished."""
        while len(self._passes) > 1:
            self._passes.popleft().synchronize()
