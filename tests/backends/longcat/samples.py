"""LongCat-Video at a size a test can run, with weights and inputs that any machine computes alike."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from backends.longcat.transformer import LongCatConfig, Transformer

CONFIG = LongCatConfig(
    width=256, layers=4, heads=2, text_width=48, text_length=32, time_width=32, frequencies=64
)
CHANNELS, ROWS, COLUMNS = 16, 4, 6  # latent channels, tokens of a frame
HEIGHT, WIDTH = 32, 48  # pixels of videos, where there are any


def values(name: str, shape: Iterable[int]) -> Tensor:
    """fp32, uniform with deviation 1: a hash of the name and the index (lowbias32 of hash-prospector)."""
    size = torch.Size(shape)
    low = (1 << 32) - 1
    h = torch.arange(size.numel()) ^ zlib.crc32(name.encode())
    h = (h ^ (h >> 16)) * 0x7FEB352D & low
    h = (h ^ (h >> 15)) * 0x846CA68B & low
    h = (h ^ (h >> 16)) >> 8
    return ((h.double() / (1 << 24) - 0.5) * 12**0.5).float().view(size)


def fill(module: nn.Module, prefix: str = "") -> nn.Module:
    """Gives every parameter values of its own, so that no path is dead."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            made = values(prefix + name, parameter.shape)
            if parameter.ndim > 1:
                made = made * parameter[0].numel() ** -0.5
            elif name.endswith("weight"):
                made = 1 + 0.1 * made
            else:
                made = 0.1 * made
            parameter.copy_(made)
    return module.eval().requires_grad_(False)


def transformer(config: LongCatConfig = CONFIG, dtype: torch.dtype = torch.float32) -> Transformer:
    with torch.device("meta"):
        model = Transformer(config)
    fill(model.to_empty(device="cpu"))
    return model.to(dtype)


def latents(name: str, frames: int, batch: int = 1) -> Tensor:
    return values(name, (batch, CHANNELS, frames, 2 * ROWS, 2 * COLUMNS))


def prompt(name: str, length: int) -> Tensor:
    """Embeddings [length, C] of a prompt's own tokens."""
    return values(name, (length, CONFIG.text_width))


def lora(rank: int = 4) -> dict[str, Tensor]:
    """An adapter in the published layout, of every matrix of attention and of the feed-forward network."""
    hyphen, tensors = "___lorahyphen___", {}
    with torch.device("meta"):
        model = Transformer(CONFIG)
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear) or not name.startswith("blocks.") or "adaLN" in name:
            continue
        key = f"lora{hyphen}{name.replace('.', hyphen)}"
        parts = {"qkv": 3, "kv_linear": 2}.get(name.rpartition(".")[2], 1)
        down = values(f"{name} down", (rank * parts, module.in_features)) * module.in_features**-0.5
        ups = values(f"{name} up", (parts, module.out_features // parts, rank)) * rank**-0.5
        tensors[f"{key}.lora_down.weight"] = down
        for part, up in enumerate(ups):
            place = f"lora_up.blocks.{part}" if parts > 1 else "lora_up"
            tensors[f"{key}.{place}.weight"] = up.clone()
        tensors[f"{key}.alpha_scale"] = torch.tensor(0.5)
    return tensors
