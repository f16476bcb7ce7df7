"""Flow matching as Wan's distilled models sample: predict clean latents, add fresh noise, look again.

diffusers' FlowMatchEulerDiscreteScheduler takes an ODE step and appends a last sigma; nothing here does.
"""

from __future__ import annotations

import torch
from torch import Tensor

TRAIN_STEPS = 1000  # timesteps are sigmas times this


def sigma_table(shift: float) -> Tensor:
    """fp32 [1000] of falling noise levels, 1 first: uniform ones, shifted towards noise."""
    uniform = torch.linspace(1, 0, TRAIN_STEPS + 1)[:-1]
    return shift * uniform / (1 + (shift - 1) * uniform)


def warped_steps(steps: tuple[int, ...], shift: float) -> Tensor:
    """fp32 sigmas of `steps` counted on the unshifted scale, 1000 pure noise."""
    return sigma_table(shift)[[TRAIN_STEPS - step for step in steps]]


# `sigma` is a number in a tensor on the CPU: a GPU takes it as an argument of the kernel, and no copy waits.


def clean_latents(noisy: Tensor, flow: Tensor, sigma: Tensor) -> Tensor:
    """x0, where x_t = (1 - sigma) x0 + sigma noise and flow = noise - x0. FP64, cast to the flow's dtype."""
    return (noisy.double() - sigma.double() * flow.double()).to(flow.dtype)


def add_noise(clean: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """(1 - sigma) clean + sigma noise, computed in FP32, in the noise's dtype."""
    return ((1 - sigma.float()) * clean.float() + sigma.float() * noise.float()).to(noise.dtype)
