"""HY-WorldPlay's sampler: denoising block by block, and encoding of the history before each.

Clean latents are a few megabytes and are all kept; which of them the cache holds encoded is set by
`Memory.refresh`.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from backends.base import Tick
from backends.worldplay.cameras import Projections
from backends.worldplay.context import Context
from backends.worldplay.memory import FieldOfView, Memory, choose
from backends.worldplay.model import Mixed, Transformer
from backends.worldplay.poses import Views
from qvg import Clock, KVCache, Rope

# wan/inference/pipeline_wan_w_mem_relative_rope.py: four uniform steps shifted by 8, out of 1000
LEVELS = (1000.0, 960.0, 888.8889, 727.2728)
CLEAN = 14.0  # noise level label of clean latents; no noise is added to them


def gaussian(seed: int, shape: tuple[int, ...]) -> Iterator[Tensor]:
    """Yields noise for each block, drawn on the CPU: a seed gives the same video on every device."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield torch.randn(shape, generator=generator)


class Sampler:
    """One video over one cache."""

    def __init__(
        self,
        model: Transformer,
        rope: Rope,
        cache: KVCache,
        prompt: Tensor,
        noise: Iterator[Tensor],
        memory: Memory,
        sight: FieldOfView,
    ) -> None:
        """Starts a video. prompt [1, S, text_width]; `noise` yields [F, C, h, w] for every block."""
        if cache.geometry.tokens_per_frame != len(rope.place):
            raise ValueError(
                f"the cache has {cache.geometry.tokens_per_frame} tokens a frame, the model {len(rope.place)}"
            )
        self._model, self._rope, self._cache = model, rope, cache
        self._noise, self._memory, self._sight = noise, memory, sight
        self._device = rope.place.device
        with torch.inference_mode():
            self._text = model.read(prompt.to(self._device))
        self._latents: list[Tensor] = []  # clean blocks [F, C, h, w]
        self._views: list[Views] = []
        self.chosen: tuple[int, ...] = ()  # blocks that the last one has read
        self.context_clock, self.denoise_clock = Clock(self._device), Clock(self._device)

    @torch.inference_mode()
    def generate(self, views: Views, first: Tensor | None = None, tick: Tick | None = None) -> Tensor:
        """Returns clean latents fp32 [F, C, h, w] of the next block, seen from `views`.

        `first` [C, h, w] are the known latents of the video's first frame.
        """
        self._views.append(views)
        passes = len(LEVELS) + bool(self._latents)
        self.chosen = self._choose()
        if self._latents:
            if tick is not None:
                tick(0, passes)
            with self.context_clock.running():
                self._remember()
        x = next(self._noise).to(self._device, copy=True)
        context = self._context(self.chosen, len(self._latents))
        actions = views.actions.to(self._device)

        def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Mixed:
            history = self._cache.layer(layer)
            history.stage(k, v)
            return context.over(history, q)

        for step, (level, below) in enumerate(zip(LEVELS, (*LEVELS[1:], 0.0), strict=True)):
            if tick is not None:
                tick(passes - len(LEVELS) + step, passes)
            t = torch.full((len(x),), level, device=self._device)
            if first is not None:
                x[0], t[0] = first.to(x), CLEAN
            with self.denoise_clock.running():
                flow = self._model(x, t, actions, self._text, attention)
                x = x + (below - level) / 1000 * flow
        if first is not None:
            x[0] = first.to(x)
        self._latents.append(x)
        return x

    def _choose(self) -> tuple[int, ...]:
        """Returns the blocks of history that the next one reads."""
        current, memory, policy = len(self._latents), self._memory, self._cache.policy
        history, blocks = list(range(current)), memory.blocks
        if memory.refresh == "recompute":
            blocks = min(filter(None, (blocks, policy.window)), default=None)
        else:
            layout = policy.layout(current)
            history = [block for block in history if block in layout.sink or block >= layout.first_visible]
        retrieved = memory.retrieved if blocks is None else min(memory.retrieved, blocks - 1)
        w2c = torch.cat([views.w2c for views in self._views])
        return choose(w2c, current, history, blocks, retrieved, self._sight)

    def _context(self, chosen: tuple[int, ...], own: int | None = None) -> Context:
        """Returns the context of `chosen` blocks, by their numbers in the cache, and of `own`, if given."""
        origin = torch.linalg.inv(self._views[-1].w2c[0])
        seen = [self._views[block] for block in (*chosen, *([] if own is None else [own]))]
        return Context(
            tuple(range(len(chosen))) if self._memory.refresh == "recompute" else chosen,
            self._cache.frames_per_block,
            Projections.joined([Projections.of(views, origin, self._device) for views in seen]),
            self._rope,
        )

    def _remember(self) -> None:
        """Appends the newest block to the history, and encodes others again as `Memory.refresh` says."""
        cache, refresh = self._cache, self._memory.refresh
        *older, newest = self.chosen
        context = (
            self._context(tuple(older), newest) if refresh == "incremental" else self._context(self.chosen)
        )
        tokens = cache.frames_per_block * cache.geometry.tokens_per_frame

        def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Mixed | None:
            history = cache.layer(layer)
            if refresh == "recompute":
                cache.rewrite(layer, k, v)
            else:
                history.stage(k[:, :, -tokens:], v[:, :, -tokens:])
            if layer == cache.geometry.layers - 1:
                return None
            if refresh == "incremental":
                return context.over(history, q)
            return context.among_themselves(q, k, v, cache.choice)

        read = (newest,) if refresh == "incremental" else self.chosen
        latents = torch.cat([self._latents[block] for block in read])
        actions = torch.cat([self._views[block].actions for block in read]).to(self._device)
        t = torch.full((len(latents),), CLEAN, device=self._device)
        self._model(latents, t, actions, self._text, attention)
        if refresh != "recompute":
            cache.commit()
