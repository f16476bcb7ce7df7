"""Weight files of Pocket World: matrices as int8 with a scale per output channel, all else in 16 bits."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from backends.base import BackendUnavailable
from backends.hub import files
from backends.pocket import spec
from backends.pocket.autoencoder import Autoencoder
from backends.pocket.transformer import Transformer

SHARD_BYTES = 9_500_000  # a Space requires large-file storage above 10 MB
_SCALE = ".int8_scale"


def save(folder: Path, autoencoder: Autoencoder, transformer: Transformer) -> None:
    """Writes `spec.FILES`. Raises ValueError if the transformer does not fit its two files."""
    folder.mkdir(parents=True, exist_ok=True)
    half = {name: _half(value) for name, value in autoencoder.state_dict().items()}
    save_file(half, folder / spec.AUTOENCODER)
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, value in transformer.state_dict().items():
        entry = _quantize(name, value) if value.ndim == 2 else {name: _half(value)}
        size = sum(tensor.nbytes for tensor in entry.values())
        if filled + size > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1].update(entry)
        filled += size
    if len(shards) != len(spec.TRANSFORMER):
        raise ValueError(
            f"the transformer takes {len(shards)} files, not the {len(spec.TRANSFORMER)} of its spec"
        )
    for name, shard in zip(spec.TRANSFORMER, shards, strict=True):
        save_file(shard, folder / name)


def load(folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[Autoencoder, Transformer]:
    """Returns both models in `dtype`, ready to run.

    Raises BackendUnavailable if a file is missing, truncated or of another model.
    """
    autoencoder, transformer = Autoencoder(), Transformer()
    _fill(autoencoder, [folder / spec.AUTOENCODER])
    _fill(transformer, [folder / name for name in spec.TRANSFORMER])
    place(autoencoder, transformer, device, dtype)
    return autoencoder, transformer


def place(
    autoencoder: Autoencoder, transformer: Transformer, device: torch.device, dtype: torch.dtype
) -> None:
    """Moves both models to `device` in `dtype`, ready to run."""
    for model in (autoencoder, transformer):
        model.requires_grad_(False).eval().to(device=device, dtype=dtype)
    autoencoder.norm.float()  # its input is FP32, and a CPU's batch norm takes one dtype only
    autoencoder.to(memory_format=torch.channels_last)


def _fill(model: nn.Module, paths: list[Path]) -> None:
    stored: dict[str, Tensor] = {}
    for file in paths:
        try:
            if fault := files.inspect(file).fault:
                raise OSError(f"it {fault}")
            stored.update(load_file(file))
        except (OSError, SafetensorError) as error:
            raise BackendUnavailable(
                f"Pocket World's file {file.name} cannot be read ({error}): "
                "clone the repository again or restore assets/pocket."
            ) from error
    scales = {name.removesuffix(_SCALE): stored.pop(name) for name in list(stored) if name.endswith(_SCALE)}
    state = {
        name: value.float() * scales[name].float().unsqueeze(1) if name in scales else value
        for name, value in stored.items()
    }
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise BackendUnavailable(
            f"Pocket World's weights do not fit this version of the model: {error}"
        ) from error


def _half(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous().to(torch.bfloat16 if value.is_floating_point() else value.dtype)


def _quantize(name: str, value: Tensor) -> dict[str, Tensor]:
    """Quantizes [out, in] to int8 with a scale from each row's largest magnitude."""
    value = value.detach().float().cpu()
    scale = (value.abs().amax(dim=1) / 127).clamp_min(1e-8)
    codes = (value / scale.unsqueeze(1)).round().clamp(-127, 127).to(torch.int8)
    return {name: codes, name + _SCALE: scale.float()}
