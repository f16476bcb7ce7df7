"""Weights of Self-Forcing: parameter names of trainers and of diffusers, and a BF16 copy.

The published file has FP32 averages. It is read once; the BF16 copy beside Hugging Face's cache is half the
size and loads without unpickling.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

from backends.base import BackendUnavailable
from backends.hub import artifacts, files
from backends.self_forcing.spec import TRANSFORMER
from backends.self_forcing.transformer import Transformer, WanConfig
from backends.wan import checkpoint

T = TypeVar("T")

_FROM_DIFFUSERS = {
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "proj_out": "head.head",
    "scale_shift_table": "head.modulation",
    "patch_embedding": "patch_embedding",
}
_FROM_DIFFUSERS_BLOCK = {
    "scale_shift_table": "modulation",
    "norm2": "norm3",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    **{
        f"{theirs}.{leaf}": f"{ours}.{part}"
        for theirs, ours in (("attn1", "self_attn"), ("attn2", "cross_attn"))
        for leaf, part in (
            ("to_q", "q"),
            ("to_k", "k"),
            ("to_v", "v"),
            ("to_out.0", "o"),
            ("norm_q", "norm_q"),
            ("norm_k", "norm_k"),
        )
    },
}


def with_original_names(tensors: Mapping[str, T]) -> dict[str, T]:
    """Returns tensors by names of Wan's own layout, from that or diffusers', without a trainer's prefixes.

    Raises BackendUnavailable for a name that diffusers' layout does not have.
    """
    bare = checkpoint.bare(tensors)
    if "proj_out.weight" not in bare:
        return bare
    return {_original(name): tensor for name, tensor in bare.items()}


def load(
    path: Path, device: torch.device | str, dtype: torch.dtype, config: WanConfig | None = None
) -> Transformer:
    """Loads the transformer in a file or folder, in either layout.

    Raises BackendUnavailable for another model.
    """
    with torch.device("meta"):
        transformer = Transformer(config or WanConfig())
    checkpoint.fill(transformer, with_original_names(checkpoint.scan(path)), device, dtype)
    return transformer


def load_published(
    device: torch.device | str, dtype: torch.dtype, on_status: Callable[[str], None]
) -> Transformer:
    """Loads the published checkpoint, converted to BF16 the first time. Raises BackendUnavailable."""
    path = artifacts.locate(TRANSFORMER)
    if path is None:
        raise BackendUnavailable(f"{TRANSFORMER.title} is not here: download it first.")
    converted = artifacts.converted_path(TRANSFORMER)
    if path not in (converted, files.index_of(converted)):
        on_status("Converting Self-Forcing to BF16, once")
        path = convert(path, converted)
    on_status("Loading Self-Forcing")
    return load(path, device, dtype)


def convert(source: Path, target: Path, config: WanConfig | None = None) -> Path:
    """Writes `source` in BF16 to `target` and returns the path to load. Raises BackendUnavailable."""
    with torch.device("meta"):
        transformer = Transformer(config or WanConfig())
    named = with_original_names(checkpoint.scan(source))
    checkpoint.check(transformer, named)
    return checkpoint.convert(named, target, {"source": source.name})


def _original(name: str) -> str:
    stem, leaf = name, ""
    if not name.endswith("scale_shift_table"):
        stem, _, leaf = name.rpartition(".")
    block = re.fullmatch(r"blocks\.(\d+)\.(.+)", stem)
    known = _FROM_DIFFUSERS_BLOCK.get(block[2]) if block else _FROM_DIFFUSERS.get(stem)
    if known is None:
        raise BackendUnavailable(f"the weights hold {name}, which Wan2.1's transformer does not have.")
    start = f"blocks.{block[1]}.{known}" if block else known
    return f"{start}.{leaf}" if leaf else start
