"""Noise schedules and steps: flow matching at shift 12, and CFG-zero guidance."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from backends.wan.schedule import TRAIN_STEPS, shifted

SHIFT = 12.0  # scheduler/scheduler_config.json
STEPS, DISTILLED_STEPS = 50, 16  # of upstream's demonstrations
_LAST_SIGMA = 0.001
_DISTILLED_GRID = 50  # noise levels that the distilled model was trained at
_TAIL = (500.0, 10)  # from this timestep down to 0, in this many equal steps


class Schedule(NamedTuple):
    """Timesteps fp32 [N] for the model, and noise levels `sigmas` fp32 [N + 1] of the latents, 0 last."""

    timesteps: Tensor
    sigmas: Tensor

    def __len__(self) -> int:
        return len(self.timesteps)


def uniform(steps: int = STEPS) -> Schedule:
    """Returns uniform noise levels, shifted towards noise: for a clip from nothing or from a picture."""
    return _shifted(torch.linspace(1, _LAST_SIGMA, steps))


def continuing(steps: int = STEPS) -> Schedule:
    """Returns `uniform` down to timestep 500, then ten equal steps: upstream's `enhance_hf`, 56 for 50."""
    start, count = _TAIL
    timesteps = uniform(steps).timesteps
    tail = start - start / count * torch.arange(count, dtype=torch.float32)
    timesteps = torch.cat([timesteps[timesteps > start], tail])
    return Schedule(timesteps, torch.cat([timesteps / TRAIN_STEPS, torch.zeros(1)]))


def distilled(steps: int = DISTILLED_STEPS) -> Schedule:
    """Returns some of the noise levels that `cfg_step_lora` was distilled at: 16, 12 or 8 of 50.

    Raises ValueError unless `steps` is 1 to 50.
    """
    if not 1 <= steps <= _DISTILLED_GRID:
        raise ValueError(f"{steps} steps, but the distilled model knows 1 to {_DISTILLED_GRID} noise levels")
    grid = (_DISTILLED_GRID - torch.arange(_DISTILLED_GRID)).float() / _DISTILLED_GRID
    return _shifted(grid[torch.arange(steps) * _DISTILLED_GRID // steps])


def step(latents: Tensor, guess: Tensor, schedule: Schedule, index: int) -> Tensor:
    """Returns fp32 latents after step `index`; `guess` is the transformer's prediction, clean minus noise."""
    sigma, following = schedule.sigmas[index], schedule.sigmas[index + 1]
    return latents.float() - (following - sigma).to(latents.device) * guess.float()


def guide(positive: Tensor, negative: Tensor, weight: float, condition: Tensor | float = 0.0) -> Tensor:
    """Returns the CFG-zero guidance (arXiv 2503.18886): away from the negative prediction, rescaled to fit.

    One video [1, 16, F, h, w]. `condition` is the squared norm of the model's prediction for clean condition
    frames, the same for both prompts: upstream includes it if those frames are part of the call.
    """
    dot = (positive * negative).sum() + condition
    scale = dot / (negative.square().sum() + condition + 1e-8)
    return negative * scale + weight * (positive - negative * scale)


def _shifted(sigmas: Tensor) -> Schedule:
    sigmas = shifted(sigmas, SHIFT)
    return Schedule(sigmas * TRAIN_STEPS, torch.cat([sigmas, torch.zeros(1)]))
