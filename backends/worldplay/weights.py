"""WorldPlay-5B's weights: what is published, half of it a copy that is never read, becomes one BF16 file."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from backends import artifacts
from backends.base import BackendUnavailable
from backends.wan import checkpoint
from backends.worldplay.model import ModelConfig, Transformer
from backends.worldplay.spec import TRANSFORMER

_FSDP = "_fsdp_wrapped_module."


def build(config: ModelConfig) -> Transformer:
    """The transformer without weights, on the meta device."""
    with torch.device("meta"):
        return Transformer(config)


def load(path: Path, config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Transformer:
    """The transformer in `path`: as published (.pt), or converted. Raises BackendUnavailable."""
    model = build(config)
    checkpoint.fill(model, _generator(path) if path.suffix == ".pt" else checkpoint.read(path), device, dtype)
    return model


def load_published(device: torch.device, dtype: torch.dtype, say: Callable[[str], None]) -> Transformer:
    """The published transformer, converted the first time. Raises BackendUnavailable."""
    path = artifacts.locate(TRANSFORMER)
    if path is None:
        raise BackendUnavailable(f"{TRANSFORMER.title} is not here: download it first.")
    converted = artifacts.converted_path(TRANSFORMER)
    if path != converted:
        say("Converting HY-WorldPlay to BF16, once: some minutes")
        convert(path, converted, ModelConfig())
    say("Loading HY-WorldPlay")
    return load(converted, ModelConfig(), device, dtype)


def convert(path: Path, to: Path, config: ModelConfig) -> None:
    """Writes the transformer of the published file `path` as BF16 safetensors. Raises BackendUnavailable."""
    model = load(path, config, torch.device("cpu"), torch.bfloat16)
    checkpoint.write(to, model.state_dict(), {"source": path.name})


def published_name(name: str) -> str:
    """A parameter's own name, without what training wrapped it in."""
    return name.removeprefix("model.").replace(_FSDP, "")


def _generator(path: Path) -> dict[str, Tensor]:
    """Tensors by their own names, still in the file: the averaged copy beside them is not read."""
    try:
        saved = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise BackendUnavailable(
            f"{path} cannot be read ({type(error).__name__}: {error}): delete it and download it again."
        ) from error
    found = saved.get("generator") if isinstance(saved, Mapping) else None
    if not isinstance(found, Mapping):
        held = checkpoint.names(saved) if isinstance(saved, Mapping) else type(saved).__name__
        raise BackendUnavailable(f"{path} is not HY-WorldPlay's: it holds no 'generator', but {held}.")
    return {published_name(name): tensor for name, tensor in found.items()}
