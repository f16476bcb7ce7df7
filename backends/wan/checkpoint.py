"""Reading and writing weight files: safetensors, alone or in shards, and pickles that may hold only tensors.

Tensors stay mapped to the file until they are copied to a device: a checkpoint is never in memory twice.
"""

from __future__ import annotations

import os
import pickle
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from backends.base import BackendUnavailable

_SHOWN = 4  # names in an error before "and n more"


def read(path: Path) -> dict[str, Tensor]:
    """Tensors by name. `path` is a safetensors file, a folder of them, or a PyTorch file (.pt, .pth).

    A PyTorch file may hold one level of dictionaries around the tensors; see `inner`. Raises
    BackendUnavailable when it is absent, cut off or holds anything but tensors.
    """
    try:
        if path.is_dir():
            shards = sorted(path.glob("*.safetensors"))
            if not shards:
                raise BackendUnavailable(f"{path} holds no safetensors files.")
            return {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
        if path.suffix == ".safetensors":
            return load_file(path)
        # Only the zip format, torch's since 1.6, can be mapped.
        mapped = zipfile.is_zipfile(path)
        return inner(torch.load(path, map_location="cpu", weights_only=True, mmap=mapped))
    except (OSError, RuntimeError, SafetensorError, pickle.UnpicklingError, EOFError) as error:
        raise BackendUnavailable(
            f"{path} cannot be read ({type(error).__name__}: {error}): delete it and download it again."
        ) from error


def inner(saved: Mapping[str, object]) -> dict[str, Tensor]:
    """The tensors of a training checkpoint: of its averaged generator if it has one.

    Raises BackendUnavailable when there are none.
    """
    for name in ("generator_ema", "generator", "model", "state_dict"):
        part = saved.get(name)
        if isinstance(part, Mapping):
            saved = part
            break
    tensors = {name: value for name, value in saved.items() if isinstance(value, Tensor)}
    if not tensors:
        raise BackendUnavailable(f"the file holds no tensors, but {names(saved)}.")
    return tensors


def write(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """A safetensors file that is complete from the moment it has its name.

    Raises BackendUnavailable when it cannot be written.
    """
    name = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, name, metadata)
        os.replace(name, path)
    except (OSError, SafetensorError) as error:
        raise BackendUnavailable(
            f"{path} cannot be written ({error}): make room, or set HF_HOME to another folder."
        ) from error
    finally:
        if name:
            Path(name).unlink(missing_ok=True)


def fill(
    module: nn.Module, tensors: Mapping[str, Tensor], device: torch.device | str, dtype: torch.dtype
) -> None:
    """Gives `module`, built on the meta device, the `tensors` as its parameters, on `device` in `dtype`.

    Raises BackendUnavailable unless names and shapes are exactly the module's.
    """
    expected = module.state_dict()
    absent, extra = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    if absent or extra:
        found = [f"lack {names(absent)}"] if absent else []
        found += [f"have {names(extra)} too many"] if extra else []
        raise BackendUnavailable(
            f"the weights are not those of {type(module).__name__}: they {' and '.join(found)}."
        )
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise BackendUnavailable(
                f"{name} is {tuple(tensor.shape)}, but {type(module).__name__} takes "
                f"{tuple(expected[name].shape)}."
            )
    placed: dict[int, Tensor] = {}
    state = {}
    for name, tensor in tensors.items():
        # Tied parameters share one tensor and stay shared.
        if id(tensor) not in placed:
            placed[id(tensor)] = tensor.to(device, dtype)
        state[name] = placed[id(tensor)]
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False).eval()


def fill_randomly(module: nn.Module, device: torch.device | str, dtype: torch.dtype, seed: int) -> None:
    """Gives `module`, built on the meta device, parameters that keep activations near one in size."""
    generator = torch.Generator(device).manual_seed(seed)
    state = {}
    for name, tensor in module.state_dict().items():
        made = torch.empty(tensor.shape, device=device, dtype=dtype)
        if tensor.ndim > 1 and not name.endswith("gamma"):
            state[name] = made.normal_(0, tensor[0].numel() ** -0.5, generator=generator)
        else:
            state[name] = made.fill_(1.0 if name.endswith(("weight", "gamma")) else 0.0)
    module.load_state_dict(state, assign=True)
    module.requires_grad_(False).eval()


def names(keys: Iterable[str]) -> str:
    """`a, b, c, d and 3 more`"""
    ordered = sorted(map(str, keys))
    shown = ", ".join(ordered[:_SHOWN])
    return shown if len(ordered) <= _SHOWN else f"{shown} and {len(ordered) - _SHOWN} more"
