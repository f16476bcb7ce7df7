"""Quant VideoGen: a 2-bit key/value cache for video diffusion that generates block after block.

Names load at their first use: `qvg.config`, `qvg.policy` and `qvg.stats` are imported without torch.
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from qvg.attention import attend as attend
    from qvg.attention import attend_chosen as attend_chosen
    from qvg.cache import KVCache as KVCache
    from qvg.cache import Snapshot as Snapshot
    from qvg.clock import Clock as Clock
    from qvg.codecs import build_codec as build_codec
    from qvg.codecs.base import Codec as Codec
    from qvg.config import BF16 as BF16
    from qvg.config import KIVI as KIVI
    from qvg.config import KIVI_INT4 as KIVI_INT4
    from qvg.config import PRESETS as PRESETS
    from qvg.config import QUAROT as QUAROT
    from qvg.config import QUAROT_INT4 as QUAROT_INT4
    from qvg.config import QVG as QVG
    from qvg.config import QVG_INT4 as QVG_INT4
    from qvg.config import QVG_MAX as QVG_MAX
    from qvg.config import QVG_PLUS as QVG_PLUS
    from qvg.config import QVG_PRO as QVG_PRO
    from qvg.config import QVG_PRO_INT4 as QVG_PRO_INT4
    from qvg.config import RTN as RTN
    from qvg.config import RTN_INT4 as RTN_INT4
    from qvg.config import CacheGeometry as CacheGeometry
    from qvg.config import CodecConfig as CodecConfig
    from qvg.device import Choice as Choice
    from qvg.device import choose as choose
    from qvg.layer import LayerCache as LayerCache
    from qvg.offload import empty_host_cache as empty_host_cache
    from qvg.ops.attention import partial_attention as partial_attention
    from qvg.ops.interrupt import interruptible as interruptible
    from qvg.ops.rotate import rotate as rotate
    from qvg.policy import CachePolicy as CachePolicy
    from qvg.rope import Rope as Rope
    from qvg.rope import grid_rope as grid_rope
    from qvg.stats import CacheStats as CacheStats

# The imports above are the one list of public names: type checkers follow them, and here they are read.
_HOME = {
    name.name: node.module
    for node in ast.walk(ast.parse(Path(__file__).read_text(encoding="utf-8")))
    if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("qvg.")
    for name in node.names
}
__all__ = [*_HOME]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'qvg' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
