"""Pocket World's sampler: a few Euler steps per block, then a clean pass that writes the KV cache."""

from __future__ import annotations

import torch
from torch import Tensor

from backends.base import Tick
from backends.pocket.autoencoder import DOWN, LATENT_CHANNELS
from backends.pocket.conditioning import Layout, condition, in_sight, seen_here
from backends.pocket.models import Models
from backends.pocket.scene import OBJECTS
from backends.pocket.spec import HEIGHT, WIDTH
from backends.pocket.transformer import ray_features
from backends.wan.schedule import shifted
from qvg import KVCache, attend


def noise_levels(steps: int, shift: float) -> tuple[float, ...]:
    """Returns the noise level of each step: uniform levels from 1, pure noise, shifted towards noise."""
    return tuple(shifted(1 - step / steps, shift) for step in range(steps))


LEVELS = noise_levels(2, 3.0)
# The first block, from noise alone, settles what a prompt leaves open: it gets more, and earlier, steps.
OPENING = noise_levels(6, 5.0)


class Sampler:
    """Denoises a batch of B videos in step over one cache of that batch size."""

    def __init__(
        self, models: Models, cache: KVCache, layout: Layout, seed: int, opening: tuple[float, ...] = OPENING
    ) -> None:
        """Starts B videos, with a layout each. `opening` are the noise levels of a first block.

        They are used only if that block is generated from noise alone.
        """
        self._models, self._cache = models, cache
        self._layout = layout.to(models.device)
        self.look = self._layout.look().to(models.dtype)
        self.sights: tuple[tuple[Tensor, Tensor], ...] = ()  # by block: poses, objects seen
        self._opening = opening
        # Drawn on the CPU: a seed gives the same video on every device, whatever the codec does.
        self.noise = torch.Generator().manual_seed(seed)

    @torch.inference_mode()
    def generate(self, poses: Tensor, first: Tensor | None = None, tick: Tick | None = None) -> Tensor:
        """Returns clean latents [B, F, 12, h, w] of the next block, seen from `poses` [B, F, 4], now history.

        `first` [B, 12, h, w] are the known latents of the block's first frame.
        """
        poses = poses.to(self._models.device)
        view = self.view(poses)
        shape = (*poses.shape[:2], LATENT_CHANNELS, HEIGHT // DOWN, WIDTH // DOWN)
        x = torch.randn(shape, generator=self.noise).to(self._models.device)
        levels = self._opening if self._cache.frames == 0 and first is None else LEVELS
        for step, (t, below) in enumerate(zip(levels, (*levels[1:], 0.0), strict=True)):
            if tick is not None:
                tick(step, len(levels) + 1)
            level = torch.full(shape[:2], t, device=x.device)
            if first is not None:
                x[:, 0] = first.float()
                level[:, 0] = 0.0
            clean = self._predict(x, level, view)
            x = (1 - below) * clean + below * (x - (1 - t) * clean) / t
        if first is not None:
            x[:, 0] = first.float()
        if tick is not None:
            tick(len(levels), len(levels) + 1)
        self._absorb(x, view, poses)
        return x

    @torch.inference_mode()
    def absorb(self, latents: Tensor, poses: Tensor) -> None:
        """Appends given latents [B, F, 12, h, w], one block, to the history."""
        poses = poses.to(self._models.device)
        self._absorb(latents.to(self._models.device), self.view(poses), poses)

    def view(self, poses: Tensor) -> Tensor:
        """Returns the transformer's view for the tokens of a block at poses [B, F, 4]."""
        unseen = torch.ones(*poses.shape[:2], OBJECTS, dtype=torch.bool, device=poses.device)
        if counted := self.sights[:-1]:  # as in `unseen_by_block`
            before, shown = (torch.cat(parts, 1) for parts in zip(*counted, strict=True))
            unseen = ~seen_here(poses, before, shown)
        return self._models.transformer.view(ray_features(poses), condition(self._layout, poses, unseen))

    def _absorb(self, latents: Tensor, view: Tensor, poses: Tensor) -> None:
        self._predict(latents, torch.zeros(latents.shape[:2], device=latents.device), view, last_output=False)
        self._cache.commit()
        self.remember(poses)

    def remember(self, poses: Tensor) -> None:
        """Records that a block seen from `poses` [B, F, 4] is history now."""
        self.sights += ((poses, in_sight(self._layout.things, poses)),)

    def _predict(self, x: Tensor, level: Tensor, view: Tensor, last_output: bool = True) -> Tensor:
        rotary, cache = self._models.rotary, self._cache
        last = cache.geometry.layers - 1

        def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            history = cache.layer(layer)
            history.stage(k, v)
            # A pass for keys and values only needs nothing after the last layer's.
            return attend(rotary(q, cache.frames), history, rotary) if last_output or layer < last else q

        return self._models.transformer(x.to(self._models.dtype), level, view, self.look, attention).float()
