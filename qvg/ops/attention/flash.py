"""Attention of the flash-attn packages, where they are installed. They take [B, S, H, D]."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from types import MappingProxyType

from torch import Tensor

from qvg.ops.attention.names import AttentionName
from qvg.ops.attention.reference import Partial

MODULES: Mapping[AttentionName, str] = MappingProxyType(
    {"flash-attn-2": "flash_attn", "flash-attn-3": "flash_attn_interface"}
)


def installed() -> list[AttentionName]:
    """Returns the names of installed packages; whether they run on a device shows when they are tried."""
    return [name for name, module in MODULES.items() if find_spec(module) is not None]


def flash_attention(q: Tensor, k: Tensor, v: Tensor, name: AttentionName) -> Partial:
    """Returns what `partial_attention` does, by the package of `name`."""
    queries, keys, values = (x.transpose(1, 2) for x in (q, k, v))
    if name == "flash-attn-3":
        from flash_attn_interface import flash_attn_func  # pyright: ignore[reportMissingImports]
    else:
        from flash_attn import flash_attn_func  # pyright: ignore[reportMissingImports]
    out, lse = flash_attn_func(queries, keys, values, return_attn_probs=True)[:2]
    return Partial(out.transpose(1, 2), lse)
