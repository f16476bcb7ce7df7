"""Noise levels and guidance against upstream's numbers."""

from __future__ import annotations

import pytest
import torch

from backends.longcat import schedule
from tests.backends.longcat import samples
from tests.backends.longcat.recorded import recorded


@pytest.mark.parametrize(
    ("made", "count"),
    [
        (schedule.uniform(), 50),
        (schedule.continuing(), 56),
        (schedule.distilled(), 16),
        (schedule.distilled(12), 12),
        (schedule.distilled(8), 8),
    ],
    ids=["uniform", "continuing", "distilled 16", "distilled 12", "distilled 8"],
)
def test_noise_levels_are_upstreams_to_the_last_bit(made: schedule.Schedule, count: int) -> None:
    timesteps, sigmas, following = recorded(f"schedule/{count}")
    assert len(made) == count
    assert torch.equal(made.timesteps, timesteps)
    assert torch.equal(made.sigmas[:-1], sigmas)
    assert torch.equal(made.sigmas[1:], following)
    assert made.sigmas[-1] == 0


def test_bf16_tells_some_timesteps_apart_no_more() -> None:
    told = schedule.continuing().timesteps.bfloat16()
    assert len(told) == 56
    assert len(told.unique()) == 50


def test_the_distilled_model_knows_fifty_levels() -> None:
    assert len(schedule.distilled(50)) == 50
    for steps in (0, 51):
        with pytest.raises(ValueError, match="knows 1 to 50"):
            schedule.distilled(steps)


def test_steps_arrive_at_clean_latents() -> None:
    """A model that is always right takes any noise to the same latents."""
    clean, noise = samples.latents("clean", 2), samples.latents("noise", 2)
    plan = schedule.continuing(20)
    latents = noise
    for index in range(len(plan)):
        latents = schedule.step(latents, clean - noise, plan, index)
    torch.testing.assert_close(latents, clean, atol=1e-5, rtol=1e-5)


def test_guidance_of_one_prompt_by_itself_is_none() -> None:
    guess = samples.latents("guess", 2)
    for weight in (1.0, 4.0):
        torch.testing.assert_close(schedule.guide(guess, guess, weight), guess)


def test_guidance_fits_the_negative_guess_first() -> None:
    """Three times as strong a negative guess is the same guess; condition frames pull the fit to one."""
    positive, negative = samples.latents("a", 2), samples.latents("b", 2)
    guided = schedule.guide(positive, negative, 4.0)
    torch.testing.assert_close(schedule.guide(positive, 3 * negative, 4.0), guided)
    scale = float((positive * negative).sum() / negative.square().sum())
    torch.testing.assert_close(guided, negative * scale + 4 * (positive - negative * scale))
    plain = negative + 4 * (positive - negative)
    torch.testing.assert_close(schedule.guide(positive, negative, 4.0, 1e9), plain, atol=1e-3, rtol=1e-3)
