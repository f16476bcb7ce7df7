"""Loading of LongCat-Video: published weights, or random ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from backends.base import BackendUnavailable
from backends.longcat import lora, random_weights, spec, weights
from backends.longcat.lora import Switch
from backends.longcat.models import Models, Reader
from backends.longcat.parallel import ALONE, Team
from backends.longcat.rollout import LongCatBackend
from backends.longcat.weights import Precision
from backends.wan import loading, vae
from qvg import choose


def load_models(
    device: torch.device,
    on_status: Callable[[str], None],
    precision: Precision | None = None,
    team: Team = ALONE,
    merge_adapter: bool = False,
    beside: Sequence[torch.device] = (),
) -> Models:
    """Loads the published weights. Raises BackendUnavailable if they are missing or damaged.

    `precision` None selects the one that fits the device. Further devices in `beside` take their share of the
    transformer's blocks and of the history: two 32 GB cards fit both in BF16, and are no faster than one
    larger card. `merge_adapter` adds the distilled model's adapter to the weights permanently: no layer
    computes it, and sampling is always distilled.
    """
    if (problem := spec.missing()) is not None:
        raise BackendUnavailable(problem)
    dtype = choose(device, spec.SPEC.geometry.head_dim).dtype
    deltas = weights.load_adapter()
    if merge_adapter and deltas is None:
        raise BackendUnavailable(f"{spec.ADAPTER.title} is not here: download it first.")
    transformer = weights.load_published(
        (device, *beside),
        dtype,
        precision or weights.choose_precision(device),
        on_status,
        deltas if merge_adapter else None,
    )
    if merge_adapter:
        adapter = Switch(for_good=True)
    else:
        adapter = None if deltas is None else lora.put_beside(transformer, deltas)
    on_status("Loading the video autoencoder")
    autoencoder = vae.load(loading.located(spec.VAE21), device, dtype)
    reader = Reader(loading.prompts_folder(), spec.UMT5.id, lambda: loading.open_encoder(device))
    return Models(transformer, autoencoder, reader, adapter, team)


def load(device: torch.device, on_status: Callable[[str], None]) -> LongCatBackend:
    """Loads the published weights. Raises BackendUnavailable if they are missing or damaged."""
    return LongCatBackend(load_models(device, on_status))


def load_random(device: torch.device, on_status: Callable[[str], None], tiny: bool = False) -> LongCatBackend:
    """Makes random weights for benchmarks, at full size or, if `tiny`, at the size of `spec.TINY`."""
    on_status("Making random weights")
    return LongCatBackend(*random_weights.make(device, tiny))
