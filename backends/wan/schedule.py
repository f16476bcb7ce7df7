"""Flow matching as Wan's distilled models sample: predict clean latents, add fresh noise, repeat.

diffusers' FlowMatchEulerDiscreteScheduler takes an ODE step and appends a last sigma; nothing here does.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

TRAIN_STEPS = 1000  # timesteps are sigmas times this
Level = TypeVar("Level", float, Tensor)


def shifted(level: Level, shift: float) -> Level:
    """Shifts noise levels in 0..1 towards noise: `shift` 1 changes nothing, 0 and 1 stay where they are.

    The timestep shift of Stable Diffusion 3 (arXiv 2403.03206, section 5.3.2).
    """
    return shift * level / (1 + (shift - 1) * level)


def sigma_table(shift: float) -> Tensor:
    """Returns 1000 falling noise levels, fp32, from 1: uniform ones, shifted towards noise."""
    return shifted(torch.linspace(1, 0, TRAIN_STEPS + 1)[:-1], shift)


def warped_steps(steps: tuple[int, ...], shift: float) -> Tensor:
    """Returns fp32 sigmas of `steps`, timesteps on the unshifted scale on which 1000 is pure noise."""
    return sigma_table(shift)[[TRAIN_STEPS - step for step in steps]]


class Step(NamedTuple):
    """One denoising step of a schedule whose timesteps are whole numbers."""

    t: int  # the timestep as the model's input
    clean: Tensor  # fp32 sigma to predict clean latents with
    noisy: Tensor  # fp32 sigma to add noise with before this step


def whole_steps(rows: tuple[int, ...], shift: float) -> list[Step]:
    """Returns the steps at `rows` of the 1,000 of a table that starts at 0.999, as LingBot-World samples.

    Its timesteps are sigmas times 1,000 truncated to whole numbers, and both sigmas are looked up by them:
    the first row with a step's number for the prediction; for the noise the second, or the first if there is
    no other. That is `index_for_timestep` of the authors' scheduler (wan/utils/fm_solvers_unipc.py).
    """
    uniform = torch.linspace(1 - 1 / TRAIN_STEPS, 0, TRAIN_STEPS + 1, dtype=torch.float64)[:-1]
    sigmas = shifted(uniform, shift).float()
    times = (sigmas * TRAIN_STEPS).long()
    found = [(times == times[row]).nonzero().flatten() for row in rows]
    return [Step(int(times[same[0]]), sigmas[same[0]], sigmas[same[min(1, len(same) - 1)]]) for same in found]


# `sigma` is a number in a tensor on the CPU: a GPU gets it as an argument of the kernel, without a copy.


def clean_latents(noisy: Tensor, flow: Tensor, sigma: Tensor) -> Tensor:
    """Returns x0, given x_t = (1 - sigma) x0 + sigma noise and flow = noise - x0.

    It is computed in FP64 and has the flow's dtype.
    """
    return (noisy.double() - sigma.double() * flow.double()).to(flow.dtype)


def add_noise(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """Returns (1 - sigma) clean + sigma noise, computed in FP32, in the noise's dtype."""
    return ((1 - sigma.float()) * clean.float() + sigma.float() * noise.float()).to(noise.dtype)
