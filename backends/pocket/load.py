"""Loading of Pocket World: the weights in the repository, those of a training run, or random ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from backends.base import BackendUnavailable
from backends.pocket import spec, weights
from backends.pocket.autoencoder import Autoencoder
from backends.pocket.models import Models, assemble
from backends.pocket.rollout import PocketBackend
from backends.pocket.transformer import Transformer
from qvg import choose


def load_models(device: torch.device, folder: Path = spec.WEIGHTS) -> Models:
    """Loads the weights in `folder`. Raises BackendUnavailable if they are missing or damaged."""
    dtype = choose(device, spec.SPEC.geometry.head_dim).dtype
    return assemble(*weights.load(folder, device, dtype), device, dtype)


def load(device: torch.device, on_status: Callable[[str], None]) -> PocketBackend:
    """Loads the weights in the repository. Raises BackendUnavailable if they are missing or damaged."""
    if (problem := spec.missing()) is not None:
        raise BackendUnavailable(problem)
    on_status("Loading Pocket World")
    return PocketBackend(load_models(device))


def load_random(device: torch.device, on_status: Callable[[str], None], tiny: bool = False) -> PocketBackend:
    """Makes random weights for benchmarks. `tiny` changes nothing: the model is that small."""
    on_status("Making random weights")
    dtype = choose(device, spec.SPEC.geometry.head_dim).dtype
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        autoencoder, transformer = Autoencoder(), Transformer()
    weights.place(autoencoder, transformer, device, dtype)
    return PocketBackend(assemble(autoencoder, transformer, device, dtype))
