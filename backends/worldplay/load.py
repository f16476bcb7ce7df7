"""Loading of HY-WorldPlay: published weights, or random ones."""

from __future__ import annotations

from collections.abc import Callable

import torch

from backends.base import BackendUnavailable
from backends.wan import loading, text, vae
from backends.worldplay import random_weights, spec, weights
from backends.worldplay.models import assemble
from backends.worldplay.rollout import WorldPlayBackend
from qvg import choose


def load(device: torch.device, on_status: Callable[[str], None]) -> WorldPlayBackend:
    """Loads the published weights. Raises BackendUnavailable if they are missing or damaged."""
    if (problem := spec.missing()) is not None:
        raise BackendUnavailable(problem)
    dtype = choose(device, spec.SPEC.geometry.head_dim).dtype
    transformer = weights.load_published(device, dtype, on_status)
    on_status("Loading the video autoencoder")
    autoencoder = vae.load(loading.located(spec.VAE22), device, dtype)
    prompts = text.Prompts(loading.prompts_folder(), spec.UMT5.id, lambda: loading.open_encoder(device))
    return WorldPlayBackend(assemble(spec.SPEC, transformer, autoencoder, prompts.embed, device))


def load_random(
    device: torch.device, on_status: Callable[[str], None], tiny: bool = False
) -> WorldPlayBackend:
    """Makes random weights for benchmarks, at full size or, if `tiny`, at the size of `spec.TINY`."""
    on_status("Making random weights")
    return WorldPlayBackend(random_weights.make(device, tiny))
