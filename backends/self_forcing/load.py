"""Loading of Self-Forcing: published weights, or random ones."""

from __future__ import annotations

from collections.abc import Callable

import torch

from backends.base import BackendUnavailable
from backends.hub import artifacts
from backends.self_forcing import random_weights, spec, weights
from backends.self_forcing.models import assemble
from backends.self_forcing.rollout import SelfForcingBackend
from backends.wan import loading, taehv, text, vae
from qvg import choose


def load(device: torch.device, on_status: Callable[[str], None]) -> SelfForcingBackend:
    """Loads the published weights. Raises BackendUnavailable if they are missing or damaged."""
    if (problem := spec.missing()) is not None:
        raise BackendUnavailable(problem)
    dtype = choose(device, spec.SPEC.geometry.head_dim).dtype
    transformer = weights.load_published(device, dtype, on_status)
    on_status("Loading the video decoder")
    autoencoder = vae.load(loading.located(spec.VAE21), device, dtype)
    preview = artifacts.locate(spec.TAEHV21)
    tiny = None if preview is None else taehv.load(preview, device, dtype)
    length = transformer.config.text_length
    prompts = text.Prompts(
        loading.prompts_folder(), spec.UMT5.id, lambda: loading.open_encoder(device, length), length
    )
    return SelfForcingBackend(assemble(transformer, autoencoder, tiny, prompts, spec.SPEC), spec.SPEC)


def load_random(
    device: torch.device, on_status: Callable[[str], None], tiny: bool = False
) -> SelfForcingBackend:
    """Makes random weights for benchmarks, at full size or, if `tiny`, at the size of `spec.TINY`."""
    on_status("Making random weights")
    return SelfForcingBackend(*random_weights.make(device, tiny))
