"""Weights of the transformer: published FP32 shards, our BF16 copy, and 8-bit or BF16 weights on a device.

Nothing is ever in memory as a whole except on its device: shards are mapped, the copy is written a tensor at
a time, and a block is quantized as soon as it is loaded.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from backends.base import BackendUnavailable
from backends.hub import artifacts, files
from backends.longcat import lora
from backends.longcat.lora import Delta
from backends.longcat.spec import ADAPTER, TRANSFORMER
from backends.longcat.transformer import LongCatConfig, Transformer
from backends.wan import checkpoint
from backends.wan.checkpoint import Weights

Precision = Literal["bf16", "int8"]
BF16_GPU_BYTES = 60 << 30  # 27 GB of weights, a history in BF16 and a clip's activations together


def choose_precision(device: torch.device) -> Precision:
    """Returns 8-bit weights if BF16 ones would not leave enough memory."""
    if device.type != "cuda":
        return "bf16"
    return "bf16" if torch.cuda.get_device_properties(device).total_memory >= BF16_GPU_BYTES else "int8"


def load(
    tensors: Weights,
    config: LongCatConfig,
    devices: Sequence[torch.device | str],
    dtype: torch.dtype,
    precision: Precision = "bf16",
    merged: Mapping[str, Delta] | None = None,
) -> Transformer:
    """Returns a transformer with `tensors`; `merged` is added to the weights before they are rounded.

    It is built part by part. With several `devices`, each has some of the blocks.

    Raises BackendUnavailable unless names and shapes are exactly the model's, and every delta in `merged` has
    a place in it.
    """
    # Checked without data, before anything is copied.
    model = empty(config)
    checkpoint.check(model, tensors)
    if merged is not None:
        lora.check(model, merged)
    for prefix, part, home in parts(model, devices):
        checkpoint.fill(part, _within(tensors, prefix), home, dtype)
        if merged is not None:
            lora.merge(part, _within(merged, prefix))
        round_weights(part, precision)
    return connected(model, devices)


def build_random(
    config: LongCatConfig,
    devices: Sequence[torch.device | str],
    dtype: torch.dtype,
    precision: Precision = "bf16",
) -> Transformer:
    """Returns a transformer with random weights, drawn on the devices."""
    model = empty(config)
    for seed, (_, part, home) in enumerate(parts(model, devices)):
        checkpoint.fill_randomly(part, home, dtype, seed)
        round_weights(part, precision)
    return connected(model, devices)


def empty(config: LongCatConfig) -> Transformer:
    with torch.device("meta"):
        return Transformer(config).requires_grad_(False).eval()


def parts(
    model: Transformer, devices: Sequence[torch.device | str]
) -> Iterator[tuple[str, nn.Module, torch.device | str]]:
    """Yields parts of the model small enough to be on a device twice: name prefix, module and device.

    Every device gets the same number of consecutive blocks, the first one also the rest.
    """
    for name, child in model.named_children():
        if isinstance(child, nn.ModuleList):
            for index, block in enumerate(child):
                yield f"{name}.{index}.", block, devices[index * len(devices) // len(child)]
        else:
            yield f"{name}.", child, devices[0]


def connected(model: Transformer, devices: Sequence[torch.device | str]) -> Transformer:
    """Returns the model with accelerate's hooks, which move calls from device to device and back.

    Raises BackendUnavailable for several devices without accelerate.
    """
    if len(devices) == 1:
        return model
    try:
        from accelerate.hooks import AlignDevicesHook, add_hook_to_module
    except ImportError as error:
        raise BackendUnavailable(
            "Blocks on several cards need accelerate, which is not installed: pip install accelerate."
        ) from error
    for block in model.blocks:
        add_hook_to_module(block, AlignDevicesHook(execution_device=block.attn.q_norm.weight.device))
    add_hook_to_module(model.final_layer, AlignDevicesHook(execution_device=model.device))
    return model


def round_weights(part: nn.Module, precision: Precision) -> None:
    """Quantizes a block's large matrices by torchao: 8-bit integers with a scale per row.

    Time, modulation and everything outside the blocks stay as they are. Raises BackendUnavailable without
    torchao.
    """
    if precision == "bf16":
        return
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise BackendUnavailable(
            "8-bit weights need torchao, which is not installed: pip install torchao."
        ) from error
    quantize_(part, Int8WeightOnlyConfig(), filter_fn=_is_large)


def load_published(
    devices: Sequence[torch.device],
    dtype: torch.dtype,
    precision: Precision,
    on_status: Callable[[str], None],
    merged: Mapping[str, Delta] | None = None,
) -> Transformer:
    """Loads the published checkpoint, from our BF16 copy, which the first load writes if the disk has space.

    Raises BackendUnavailable.
    """
    path = artifacts.locate(TRANSFORMER)
    if path is None:
        raise BackendUnavailable(f"{TRANSFORMER.title} is not here: download it first.")
    copy = artifacts.converted_path(TRANSFORMER)
    if path not in (copy, files.index_of(copy)):
        if _room_for(copy) >= TRANSFORMER.converted_size:
            on_status("Converting LongCat-Video to BF16, once")
            path = convert(path, copy)
        else:
            on_status("There is no room on the disk for a copy in BF16: reading the published files")
    on_status("Loading LongCat-Video" + (" in 8 bits a weight" if precision == "int8" else ""))
    tensors = checkpoint.bare(checkpoint.scan(path))
    return load(tensors, read_config(path), devices, dtype, precision, merged)


def load_adapter() -> dict[str, Delta] | None:
    """Loads the distilled model's adapter; None if it is not here. Raises BackendUnavailable."""
    path = artifacts.locate(ADAPTER)
    return None if path is None else lora.parse(checkpoint.read(path))


def convert(source: Path, target: Path) -> Path:
    """Writes the published folder `source` in BF16 with its configuration, and returns the path to load.

    Raises BackendUnavailable if `source` cannot be read or `target` cannot be written.
    """
    config = files.read_json(source / "config.json")
    tensors = checkpoint.bare(checkpoint.scan(source))
    checkpoint.check(empty(read_config(source)), tensors)
    return checkpoint.convert(tensors, target, {"config": json.dumps(config)})


def read_config(path: Path) -> LongCatConfig:
    """Returns the config of our copy, in one file or several, or of a folder as published.

    Raises BackendUnavailable.
    """
    if not path.exists() and files.index_of(path).is_file():
        path = files.index_of(path)
    try:
        if path.is_dir():
            read = files.read_json(path / "config.json")
        elif path.name.endswith(files.INDEX):
            read = json.loads(files.read_json(path)["metadata"]["config"])
        else:
            with safe_open(path, "pt") as file:
                read = json.loads((file.metadata() or {})["config"])
        return LongCatConfig.from_json(read)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        raise BackendUnavailable(
            f"{path} does not say which LongCat-Video it is ({type(error).__name__}: {error}): delete it and "
            "download it again."
        ) from error
    except BackendUnavailable as error:
        raise BackendUnavailable(f"{path} does not say which LongCat-Video it is: {error}") from error


def _within(named: Mapping[str, Any], prefix: str) -> dict:
    return {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}


def _is_large(module: nn.Module, name: str) -> bool:
    # Subclasses compute in FP32, whatever dtype their weights have, and are small.
    return type(module) is nn.Linear and not name.startswith("y_proj")


def _room_for(path: Path) -> int:
    folder = path.parent
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
