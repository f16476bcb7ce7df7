"""Encoded data: frozen, and the only thing that knows its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from qvg.config import GroupwiseConfig, PRQConfig
from qvg.ops.e4m3 import codebooks_of

P = TypeVar("P", bound="Payload")
# Which dimension of a part grows with the tokens. All other parts are of a whole span, or of what is newest.
GROWING: Mapping[str, int] = MappingProxyType({"values": 2, "codes": 2, "scales": 2, "zeros": 2, "labels": 3})
# Views of some heads, by first and last: they are read with every attention to a span.
_views: WeakKeyDictionary[Payload, dict[tuple[int | None, int | None], Any]] = WeakKeyDictionary()


class Payload(Protocol):
    """One encoded tensor [B, H, S, D]."""

    @property
    def parts(self) -> Mapping[str, Tensor]:
        """Every tensor it holds, by what it is."""
        ...

    @property
    def shape(self) -> torch.Size: ...

    @property
    def dtype(self) -> torch.dtype:
        """What was encoded, and what decoding returns unless asked otherwise."""
        ...

    @property
    def stored_bytes(self) -> int: ...

    def with_parts(self: P, parts: Mapping[str, Tensor]) -> P:
        """The same with other tensors, of the same names and meaning."""
        ...


@dataclass(frozen=True, eq=False)
class BF16Payload:
    values: Tensor  # bf16 [B, H, S, D]
    dtype: torch.dtype

    @property
    def parts(self) -> Mapping[str, Tensor]:
        return {"values": self.values}

    @property
    def shape(self) -> torch.Size:
        return self.values.shape

    @property
    def stored_bytes(self) -> int:
        return total_bytes(self.parts)

    def with_parts(self, parts: Mapping[str, Tensor]) -> BF16Payload:
        return replace(self, **parts)


@dataclass(frozen=True, eq=False)
class PRQPayload:
    """A value is the sum over stages of its token's centroid, plus level times the scale of its group.

    That product is also times the scale of its channel, where there are `channels`. Codes of different runs
    of `run` tokens share no byte. The last tokens may be refined by two bits more.
    """

    codes: Tensor  # uint8, see `qvg.ops.pack`
    scales: Tensor  # e4m3 [B, H, S, D / G]
    labels: Tensor  # uint8 [N, B, H, S]
    centroids: Tensor  # bf16 or e4m3 [N, B, H, K, D]
    powers: Tensor | None  # bf16 [N, B, H, 1, 1], what e4m3 centroids are times
    channels: Tensor | None  # bf16 [B, H, D], powers of two
    config: PRQConfig
    run: int
    dtype: torch.dtype
    fine_codes: Tensor | None = None  # see `qvg.ops.reconstruct.Fine`
    fine_scales: Tensor | None = None

    @property
    def parts(self) -> Mapping[str, Tensor]:
        parts = {
            "codes": self.codes,
            "scales": self.scales,
            "labels": self.labels,
            "centroids": self.centroids,
        }
        optional = {
            "powers": self.powers,
            "channels": self.channels,
            "fine_codes": self.fine_codes,
            "fine_scales": self.fine_scales,
        }
        return parts | {name: part for name, part in optional.items() if part is not None}

    @property
    def codebooks(self) -> Tensor:
        """The centroids as BF16 numbers, exactly."""
        return codebooks_of(self.centroids, self.powers)

    @property
    def fine(self) -> tuple[Tensor, Tensor] | None:
        """Codes and scales of the refinement of the last tokens."""
        codes, scales = self.fine_codes, self.fine_scales
        return None if codes is None or scales is None else (codes, scales)

    @property
    def shape(self) -> torch.Size:
        return torch.Size((*self.labels.shape[1:], self.centroids.shape[-1]))

    @property
    def stored_bytes(self) -> int:
        return total_bytes(self.parts)

    def with_parts(self, parts: Mapping[str, Tensor]) -> PRQPayload:
        return replace(self, **parts)


@dataclass(frozen=True, eq=False)
class GroupwisePayload:
    """A value is the zero point of its group, plus level times its scale."""

    codes: Tensor  # uint8 [B, H, S, D * bits / 8], the first channel in the lowest bits
    scales: Tensor  # e4m3 [B, H, S, D / G], or [B, H, ceil(S / G), D] where `axis` is "tokens"
    zeros: Tensor  # e4m3, as scales
    config: GroupwiseConfig
    axis: Literal["channels", "tokens"]
    run: int  # groups along tokens begin anew with every so many
    dtype: torch.dtype

    @property
    def parts(self) -> Mapping[str, Tensor]:
        return {"codes": self.codes, "scales": self.scales, "zeros": self.zeros}

    @property
    def shape(self) -> torch.Size:
        return torch.Size((*self.codes.shape[:3], self.codes.shape[3] * 8 // self.config.bits))

    @property
    def stored_bytes(self) -> int:
        return total_bytes(self.parts)

    def with_parts(self, parts: Mapping[str, Tensor]) -> GroupwisePayload:
        return replace(self, **parts)


def head_dim(name: str) -> int:
    """Which dimension of the part called `name` counts heads."""
    return 2 if name in ("labels", "centroids", "powers") else 1


def some_heads(payload: P, part: slice) -> P:
    """Some heads of `payload`, as views of the same memory: made once, and kept as long as it is."""
    views = _views.setdefault(payload, {})
    key = (part.start, part.stop)
    if key not in views:
        views[key] = payload.with_parts(
            {name: x[(*[slice(None)] * head_dim(name), part)] for name, x in payload.parts.items()}
        )
    return views[key]


def split(payload: Payload, count: int) -> list[Payload]:
    """`payload` of B items as `count` of B / count items each, views of the same memory."""
    parts = {name: part.chunk(count, head_dim(name) - 1) for name, part in payload.parts.items()}
    return [payload.with_parts({name: some[index] for name, some in parts.items()}) for index in range(count)]


def joined_codebooks(payloads: Sequence[Payload | None]) -> Payload | None:
    """The first with the centroids of all, one after another: what k-means of all begins at."""
    first = payloads[0]
    if first is None or len(payloads) == 1:
        return first
    books = {
        name: torch.cat([other.parts[name] for other in payloads if other is not None], head_dim(name) - 1)
        for name in ("centroids", "powers")
        if name in first.parts
    }
    return first.with_parts(books)


def without_fine(payload: P) -> P:
    """`payload` without the refinement of its last tokens."""
    if isinstance(payload, PRQPayload) and payload.fine is not None:
        return replace(payload, fine_codes=None, fine_scales=None)
    return payload


def total_bytes(parts: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in parts.values())
