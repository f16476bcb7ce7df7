"""Weights of WorldPlay-5B: the published file, half of which is never read, converted to one BF16 file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from backends.base import BackendUnavailable
from backends.hub import artifacts, files
from backends.wan import checkpoint
from backends.wan.checkpoint import Stored
from backends.worldplay.model import ModelConfig, Transformer
from backends.worldplay.spec import TRANSFORMER

# The average beside it is not read: the authors' own program does not use it.
_PARTS = ("generator", "model", "state_dict", "module")


def build(config: ModelConfig) -> Transformer:
    """Returns the transformer without weights, on the meta device."""
    with torch.device("meta"):
        return Transformer(config)


def load(path: Path, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Transformer:
    """Loads the transformer in `path`: as published, or converted. Raises BackendUnavailable."""
    model = build(config)
    checkpoint.fill(model, _named(path), device, dtype)
    return model


def load_published(device: torch.device, dtype: torch.dtype, on_status: Callable[[str], None]) -> Transformer:
    """Loads the published transformer, converted the first time. Raises BackendUnavailable."""
    path = artifacts.locate(TRANSFORMER)
    if path is None:
        raise BackendUnavailable(f"{TRANSFORMER.title} is not here: download it first.")
    converted = artifacts.converted_path(TRANSFORMER)
    if path not in (converted, files.index_of(converted)):
        on_status("Converting HY-WorldPlay to BF16, once: some minutes")
        path = convert(path, converted, ModelConfig())
    on_status("Loading HY-WorldPlay")
    return load(path, ModelConfig(), device, dtype)


def convert(path: Path, to: Path, config: ModelConfig) -> Path:
    """Writes the transformer of the published file `path` in BF16 and returns the path to load.

    Raises BackendUnavailable.
    """
    named = _named(path)
    checkpoint.check(build(config), named)
    return checkpoint.convert(named, to, {"source": path.name})


def _named(path: Path) -> dict[str, Tensor | Stored]:
    return checkpoint.bare(checkpoint.scan(path, _PARTS))
