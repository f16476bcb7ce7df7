"""What a cache holds and how its spans are coded, as frozen values. No torch: the page imports it.

A config knows the exact size of what its codec stores, so that a run's cost is known before it starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import ClassVar, Literal, NamedTuple, Protocol

BF16_BYTES = 2
MAX_CLUSTERS = 256  # labels are stored as uint8

TensorName = Literal["k", "v"]  # a method may treat keys and values differently
Code = Literal["int2", "int4", "sign", "trit", "quad"]
# Bits of a value; of "trit" five tokens share a byte.
CODES: Mapping[Code, int | None] = MappingProxyType(
    {"int2": 2, "int4": 4, "sign": 1, "trit": None, "quad": 2}
)
TRITS_PER_BYTE = 5


@dataclass(frozen=True, slots=True)
class CacheGeometry:
    """The shape of a model's self-attention history. A frame is a latent frame."""

    layers: int
    heads: int
    head_dim: int
    tokens_per_frame: int

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "head_dim", "tokens_per_frame"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")


class Filled(NamedTuple):
    """How much of a span is encoded: `blocks` of the `of` it has when it is full."""

    blocks: int = 1
    of: int = 1


WHOLE = Filled()


def _check_bits(bits: int) -> None:
    if bits not in (2, 4):
        raise ValueError(f"bits={bits} must be 2 or 4")


def _check_groups(head_dim: int, group: int, bits: int) -> None:
    if head_dim % group:
        raise ValueError(f"head_dim={head_dim} is not whole groups of {group} channels; use a divisor")
    if head_dim * bits % 8:
        raise ValueError(f"head_dim={head_dim} at {bits} bits does not fill whole bytes; pad the heads")


class CodecConfig(Protocol):
    """Settings of a codec: a frozen, hashable value.

    `codec` names what builds it as "module:name": called with the config and "k" (keys) or "v" (values), it
    returns a `qvg.Codec`.
    """

    codec: ClassVar[str]

    def stored_bytes(
        self, batch: int, heads: int, tokens: int, head_dim: int, tensor: TensorName = "k"
    ) -> int:
        """Returns the bytes of one encoded tensor [B, H, S, D]; raises ValueError for unsuitable heads."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BF16Config:
    """Spans as they come, in BF16: the baseline."""

    codec: ClassVar[str] = "qvg.codecs.identity:BF16Codec"

    def stored_bytes(
        self, batch: int, heads: int, tokens: int, head_dim: int, tensor: TensorName = "k"
    ) -> int:
        """Bytes of one encoded tensor [B, H, S, D]."""
        return batch * heads * tokens * head_dim * BF16_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class PRQConfig:
    """Progressive residual quantization: `stages` k-means codebooks, then small codes for what is left.

    Quant VideoGen, arXiv 2602.02958, section 4. A value is a sum of one centroid per stage and `level *
    scale`. "int2" and "int4" are the paper's codes: whole levels, the scale from the largest magnitude.
    "sign", "trit" and "quad" have two, three and four levels and an unbiased scale (`quantize_groups`);
    "quad" takes the bytes of "int2".

    With `channel_scales`, what is left of a channel is divided by a power of two before it is quantised: one
    wide channel would otherwise spoil the scale of its whole group.
    """

    codec: ClassVar[str] = "qvg.codecs.prq:PRQCodec"
    stages: int = 1
    clusters: int = 256  # centroids per stage, batch item and head; a span of fewer tokens uses one a token
    group: int = 64  # neighbouring channels sharing one FP8 E4M3 scale; a smaller head is one group
    code: Code = "int2"
    iterations: int = 2  # k-means rounds per stage
    centroids: Literal["bf16", "fp8"] = "bf16"  # FP8: E4M3 with a power of two for each stage and head
    channel_scales: bool = False  # a power of two in BF16 for each channel of a head

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise ValueError(f"stages={self.stages} must be at least 1; for no codebook at all use BF16")
        if not 1 <= self.clusters <= MAX_CLUSTERS:
            raise ValueError(
                f"labels are stored as uint8: clusters={self.clusters} must be 1 to {MAX_CLUSTERS}"
            )
        if self.group < 1:
            raise ValueError(f"group={self.group} must be at least 1 channel; the paper uses 64 and 16")
        if self.code not in CODES:
            raise ValueError(f"code={self.code!r} must be one of {', '.join(CODES)}")
        if self.iterations < 0:
            raise ValueError(f"iterations={self.iterations} must be 0 (keep the starting centroids) or more")
        if self.centroids not in ("bf16", "fp8"):
            raise ValueError(f"centroids={self.centroids!r} must be 'bf16' or 'fp8'")

    def check_head_dim(self, head_dim: int) -> None:
        """Raises ValueError when heads of this size cannot be cut into whole groups and whole bytes."""
        _check_groups(head_dim, self.group_of(head_dim), CODES[self.code] or 8)

    def group_of(self, head_dim: int) -> int:
        """Channels of a group of heads of this size."""
        return min(self.group, head_dim)

    @property
    def refined(self) -> bool:
        """Whether what is newest may be held in two bits more; four are as good as all."""
        return self.code != "int4"

    def centroids_of(self, tokens: int, filled: Filled = WHOLE) -> int:
        """Centroids per stage and head of a span of which `tokens` are encoded.

        The first block of a span that grows brings half of them, the later ones the others in equal parts.
        """
        blocks, of = filled
        share = self.clusters if blocks >= of else -(-self.clusters * (of - 2 + blocks) // (2 * of - 2))
        return min(share, tokens)

    def stored_bytes(
        self,
        batch: int,
        heads: int,
        tokens: int,
        head_dim: int,
        tensor: TensorName = "k",
        filled: Filled = WHOLE,
    ) -> int:
        """Bytes of one encoded tensor [B, H, S, D]: codes, scales, uint8 labels, centroids."""
        self.check_head_dim(head_dim)
        bits = CODES[self.code]
        rows = filled.blocks * -(-tokens // (filled.blocks * TRITS_PER_BYTE))
        codes = tokens * head_dim * bits // 8 if bits else rows * head_dim
        scales = tokens * (head_dim // self.group_of(head_dim))
        labels = self.stages * tokens
        shared = self.shared_bytes(batch, heads, tokens, head_dim, filled)
        return batch * heads * (codes + scales + labels) + shared

    def shared_bytes(self, batch: int, heads: int, tokens: int, head_dim: int, filled: Filled = WHOLE) -> int:
        """Of `stored_bytes` those of centroids and channel scales, which all tokens share."""
        count = self.stages * self.centroids_of(tokens, filled) * head_dim
        # Of FP8 centroids the power of two takes two bytes.
        centroids = count * BF16_BYTES if self.centroids == "bf16" else count + self.stages * BF16_BYTES
        channels = head_dim * BF16_BYTES if self.channel_scales else 0
        return batch * heads * (centroids + channels)

    def fine_bytes(self, batch: int, heads: int, tokens: int, head_dim: int) -> int:
        """Bytes of the two bits more, and their FP8 scales, of the newest tokens."""
        if not self.refined:
            return 0
        return batch * heads * tokens * (head_dim // 4 + head_dim // self.group_of(head_dim))


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig:
    """One way for keys and another for values: attention forgives errors of values sooner."""

    codec: ClassVar[str] = "qvg.codecs:build_split"
    k: PRQConfig
    v: PRQConfig

    def of(self, tensor: TensorName) -> PRQConfig:
        return self.k if tensor == "k" else self.v

    def check_head_dim(self, head_dim: int) -> None:
        """Raises ValueError when heads of this size cannot be coded."""
        self.k.check_head_dim(head_dim)
        self.v.check_head_dim(head_dim)

    def stored_bytes(
        self, batch: int, heads: int, tokens: int, head_dim: int, tensor: TensorName = "k"
    ) -> int:
        """Bytes of one encoded tensor [B, H, S, D]."""
        return self.of(tensor).stored_bytes(batch, heads, tokens, head_dim, tensor)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupwiseConfig:
    """No codebooks: groups of neighbouring values between their least and their largest, `bits` bits each.

    A group stores an FP8 E4M3 scale and an FP8 E4M3 zero point, 16 bits together; a value is `zero + level *
    scale`. Values are grouped along the channels of a token. So are keys, or along the tokens of a channel,
    which is KIVI (arXiv 2402.02750) without its full-precision residual: here the cache's policy keeps that.
    """

    codec: ClassVar[str] = "qvg.codecs.groupwise:GroupwiseCodec"
    bits: Literal[2, 4] = 2  # levels -1..2 or -7..8
    group: int = 64  # channels or tokens sharing a scale and a zero point; the last tokens may be fewer
    key_axis: Literal["channels", "tokens"] = "channels"

    def __post_init__(self) -> None:
        if self.group < 1:
            raise ValueError(f"group={self.group} must be at least 1 channel or token")
        _check_bits(self.bits)
        if self.key_axis not in ("channels", "tokens"):
            raise ValueError(f"key_axis={self.key_axis!r} must be 'channels' or 'tokens'")

    def axis(self, tensor: TensorName) -> Literal["channels", "tokens"]:
        """What keys ("k") or values ("v") are grouped along."""
        return self.key_axis if tensor == "k" else "channels"

    def check_head_dim(self, head_dim: int) -> None:
        """Raises ValueError when heads of this size cannot be cut into whole groups and whole bytes."""
        _check_groups(head_dim, self.group, self.bits)

    def stored_bytes(
        self, batch: int, heads: int, tokens: int, head_dim: int, tensor: TensorName = "k"
    ) -> int:
        """Bytes of one encoded tensor [B, H, S, D]: codes, FP8 scales and FP8 zero points."""
        self.check_head_dim(head_dim)
        codes = tokens * head_dim * self.bits // 8
        if self.axis(tensor) == "tokens":
            groups = -(-tokens // self.group) * head_dim
        else:
            groups = tokens * (head_dim // self.group)
        return batch * heads * (codes + 2 * groups)


@dataclass(frozen=True, slots=True, kw_only=True)
class RotatedConfig:
    """QuaRot (arXiv 2404.00456): the channels of a token rotated by a Hadamard matrix, then `inner`.

    Rotation spreads the outlier channels of a group over all of them. It takes no bytes.
    """

    codec: ClassVar[str] = "qvg.codecs.rotated:RotatedCodec"
    inner: GroupwiseConfig = GroupwiseConfig()

    def check_head_dim(self, head_dim: int) -> None:
        """Raises ValueError when heads of this size cannot be rotated or grouped."""
        if head_dim < 1 or head_dim & (head_dim - 1):
            raise ValueError(
                f"head_dim={head_dim} is not a power of two, which the Hadamard rotation needs; use RTN"
            )
        self.inner.check_head_dim(head_dim)

    def stored_bytes(
        self, batch: int, heads: int, tokens: int, head_dim: int, tensor: TensorName = "k"
    ) -> int:
        """Bytes of one encoded tensor [B, H, S, D]: those of `inner`."""
        self.check_head_dim(head_dim)
        return self.inner.stored_bytes(batch, heads, tokens, head_dim, tensor)


BF16 = BF16Config()
# Settings of the paper; its code runs 2 k-means rounds in the Self-Forcing script and 5 for Pro.
QVG = PRQConfig()
QVG_PRO = PRQConfig(stages=4, group=16, iterations=5)
QVG_INT4 = replace(QVG, code="int4")
QVG_PRO_INT4 = replace(QVG_PRO, code="int4")
# Ours: the bytes of QVG; and a third less of them, at no worse attention output or video than QVG.
QVG_PLUS = replace(QVG, code="quad", channel_scales=True)
QVG_MAX = SplitConfig(
    k=PRQConfig(code="trit", group=128, centroids="fp8", channel_scales=True),
    v=PRQConfig(code="sign", group=128, centroids="fp8", stages=2, channel_scales=True),
)
# The paper's rivals at the bytes of QVG: 2.25 bits a value. With zero points and keys before rotation they
# are stronger than its symmetric ones.
RTN = GroupwiseConfig()
KIVI = GroupwiseConfig(key_axis="tokens")
QUAROT = RotatedConfig(inner=RTN)
RTN_INT4 = replace(RTN, bits=4)
KIVI_INT4 = replace(KIVI, bits=4)
QUAROT_INT4 = RotatedConfig(inner=RTN_INT4)

PRESETS: Mapping[str, CodecConfig] = MappingProxyType(
    {
        "BF16": BF16,
        "QVG INT2": QVG,
        "QVG-Plus INT2": QVG_PLUS,
        "QVG-Max": QVG_MAX,
        "QVG-Pro INT2": QVG_PRO,
        "RTN INT2": RTN,
        "KIVI INT2": KIVI,
        "QuaRot INT2": QUAROT,
        "QVG INT4": QVG_INT4,
        "QVG-Pro INT4": QVG_PRO_INT4,
        "RTN INT4": RTN_INT4,
        "KIVI INT4": KIVI_INT4,
        "QuaRot INT4": QUAROT_INT4,
    }
)


def prq_of(config: CodecConfig, tensor: TensorName) -> PRQConfig | None:
    """What codes keys ("k") or values ("v"), where that has codebooks."""
    config = config.of(tensor) if isinstance(config, SplitConfig) else config
    return config if isinstance(config, PRQConfig) else None


def with_clusters(config: CodecConfig, most: int) -> CodecConfig:
    """`config` with at most that many centroids a codebook: short spans are not worth more."""
    if isinstance(config, SplitConfig):
        k, v = (replace(each, clusters=min(each.clusters, most)) for each in (config.k, config.v))
        return SplitConfig(k=k, v=v)
    if isinstance(config, PRQConfig):
        return replace(config, clusters=min(config.clusters, most))
    return config
