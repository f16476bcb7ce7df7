"""LongCat-Video's sampler: from noise to clean latents, with or without a history."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from backends.base import Tick
from backends.longcat.attention import AfterHistory, Alone, Place
from backends.longcat.parallel import ALONE, Team
from backends.longcat.schedule import Schedule, guide, step
from backends.longcat.transformer import PATCH, Attention, Text, Transformer
from qvg import KVCache


class Guidance(NamedTuple):
    """The prompts and the strength of guidance. Without `negative` the model runs once per step."""

    positive: Text
    negative: Text | None = None
    weight: float = 1.0


class Sampler:
    """One model on one video's latents; batch 1, or 2 if both branches of guidance run together."""

    def __init__(self, transformer: Transformer, team: Team = ALONE) -> None:
        self._transformer, self._team = transformer, team

    @torch.inference_mode()
    def remember(self, cache: KVCache, latents: Tensor, norm: bool = False) -> Tensor | None:
        """Writes clean latents [1, 16, F, h, w] to the cache as all of its history. No prompt is used.

        With `norm`, returns the squared norm of the model's prediction for them, for `guide`.
        """
        attention = Alone(self._place(latents), latents.shape[2], cache)
        guess = self._run(latents, torch.zeros(()), None, attention, output=norm)
        cache.commit()
        return None if guess is None else guess.square().sum()

    @torch.inference_mode()
    def denoise(
        self,
        noise: Tensor,
        schedule: Schedule,
        guidance: Guidance,
        tick: Tick,
        history: KVCache | None = None,
        condition: Tensor | float = 0.0,
    ) -> Tensor:
        """Returns fp32 latents [1, 16, F, h, w] denoised from `noise`, after the history if there is one."""
        place = self._place(noise)
        seen = 0 if history is None else history.frames
        attention = Alone(place, noise.shape[2]) if history is None else AfterHistory(place, history)
        # Branches in one call share the reading of a long history; otherwise they take turns in half the
        # memory.
        together = seen > noise.shape[2]
        latents = noise.to(self._transformer.device)
        for index, t in enumerate(schedule.timesteps):
            self._wait()
            tick(index, len(schedule))
            guess = self._guess(latents, t, guidance, attention, together, condition)
            latents = step(latents, guess, schedule, index)
        return latents

    def _guess(
        self,
        latents: Tensor,
        t: Tensor,
        guidance: Guidance,
        attention: Attention,
        together: bool,
        condition: Tensor | float,
    ) -> Tensor:
        positive, negative, weight = guidance
        if negative is None:
            return self._hear(latents, t, (positive,), attention)
        branches = self._team.branches
        if branches is not None:
            own = self._hear(latents, t, ((negative, positive)[branches.rank],), attention)
            opposite, towards = branches.exchange(own)
        elif together:
            both = latents.expand(2, -1, -1, -1, -1)
            opposite, towards = self._hear(both, t, (negative, positive), attention).split(1)
        else:
            opposite = self._hear(latents, t, (negative,), attention)
            towards = self._hear(latents, t, (positive,), attention)
        return guide(towards, opposite, weight, condition)

    def _hear(self, latents: Tensor, t: Tensor, text: tuple[Text, ...], attention: Attention) -> Tensor:
        guess = self._run(latents, t, text, attention)
        assert guess is not None
        return guess

    def _run(
        self,
        latents: Tensor,
        t: Tensor,
        text: tuple[Text, ...] | None,
        attention: Attention,
        output: bool = True,
    ) -> Tensor | None:
        return self._transformer(latents, t, text, self._team.around(attention), output, self._team.heads)

    def _place(self, latents: Tensor) -> Place:
        rows, columns = (side // PATCH for side in latents.shape[-2:])
        return Place(self._transformer.config.rope_pairs, rows, columns)

    def _wait(self) -> None:
        # Launches run ahead of the GPU: without this, Stop and progress would be a whole clip early.
        if self._transformer.device.type == "cuda":
            torch.cuda.current_stream(self._transformer.device).synchronize()
