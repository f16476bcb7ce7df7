"""Quant VideoGen: a 2-bit key/value cache for video diffusion that generates block after block.

Names load on first use, so that `qvg.config`, `qvg.policy` and `qvg.stats` can be imported without torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qvg.attention import attend
    from qvg.cache import KVCache
    from qvg.codecs import build_codec
    from qvg.config import (
        BF16,
        KIVI,
        KIVI_INT4,
        PRESETS,
        QUAROT,
        QUAROT_INT4,
        QVG,
        QVG_INT4,
        QVG_MAX,
        QVG_PLUS,
        QVG_PRO,
        QVG_PRO_INT4,
        RTN,
        RTN_INT4,
        CacheGeometry,
    )
    from qvg.policy import CachePolicy
    from qvg.stats import CacheStats

_HOME = {
    "BF16": "config",
    "KIVI": "config",
    "KIVI_INT4": "config",
    "PRESETS": "config",
    "QUAROT": "config",
    "QUAROT_INT4": "config",
    "QVG": "config",
    "QVG_INT4": "config",
    "QVG_MAX": "config",
    "QVG_PLUS": "config",
    "QVG_PRO": "config",
    "QVG_PRO_INT4": "config",
    "RTN": "config",
    "RTN_INT4": "config",
    "CacheGeometry": "config",
    "CachePolicy": "policy",
    "CacheStats": "stats",
    "KVCache": "cache",
    "attend": "attention",
    "build_codec": "codecs",
}

__all__ = [
    "BF16",
    "KIVI",
    "KIVI_INT4",
    "PRESETS",
    "QUAROT",
    "QUAROT_INT4",
    "QVG",
    "QVG_INT4",
    "QVG_MAX",
    "QVG_PLUS",
    "QVG_PRO",
    "QVG_PRO_INT4",
    "RTN",
    "RTN_INT4",
    "CacheGeometry",
    "CachePolicy",
    "CacheStats",
    "KVCache",
    "attend",
    "build_codec",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'qvg' has no attribute {name!r}")
    value = getattr(import_module(f"qvg.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
