"""A codec for every config."""

from __future__ import annotations

from typing import Any

from qvg.codecs.base import Codec
from qvg.codecs.groupwise import GroupwiseCodec
from qvg.codecs.identity import BF16Codec
from qvg.codecs.prq import PRQCodec
from qvg.codecs.rotated import RotatedCodec
from qvg.config import BF16Config, CodecConfig, GroupwiseConfig, PRQConfig, SplitConfig, TensorName

# Stages count up from these: keys and values draw different tokens at every stage.
SEEDS = {"k": 0, "v": 1 << 16}


def build_codec(config: CodecConfig, tensor: TensorName = "k") -> Codec[Any]:
    """The codec of `config` for keys or for values."""
    if tensor not in SEEDS:
        raise ValueError(f"tensor={tensor!r} must be 'k' (keys) or 'v' (values)")
    if isinstance(config, BF16Config):
        return BF16Codec()
    if isinstance(config, SplitConfig):
        config = config.of(tensor)
    if isinstance(config, PRQConfig):
        return PRQCodec(config, SEEDS[tensor])
    if isinstance(config, GroupwiseConfig):
        return GroupwiseCodec(config, config.axis(tensor))
    return RotatedCodec(config, GroupwiseCodec(config.inner, config.inner.axis(tensor)))
