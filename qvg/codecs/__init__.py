"""Codecs by their configs."""

from __future__ import annotations

from importlib import import_module
from typing import Any, get_args

from qvg.codecs.base import Codec
from qvg.config import CodecConfig, SplitConfig, TensorName


def build_codec(config: CodecConfig, tensor: TensorName = "k") -> Codec[Any]:
    """Returns the codec that `config` names, for keys ("k") or for values ("v").

    Raises ValueError for another `tensor`.
    """
    if tensor not in get_args(TensorName):
        raise ValueError(f"tensor={tensor!r} must be 'k' (keys) or 'v' (values)")
    module, _, name = config.codec.partition(":")
    return getattr(import_module(module), name)(config, tensor)


def build_split(config: SplitConfig, tensor: TensorName) -> Codec[Any]:
    """Returns the codec of the config that `config` has for keys or for values."""
    return build_codec(config.of(tensor), tensor)
