"""Comparisons of every kernel, and of whole codecs, with plain torch on the device they are to run on.

A card or a version of Triton may refuse a kernel, or compute something else. Lengths are awkward, and input
is a slice of something larger. Elsewhere than on a GPU there are no kernels, and plain torch agrees with
itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from textwrap import shorten
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from qvg.codecs import build_codec
from qvg.config import CodecConfig
from qvg.ops.affine import (
    dequantize_affine,
    dequantize_affine_reference,
    quantize_affine,
    quantize_affine_reference,
)
from qvg.ops.attention import Partial, Total, merge
from qvg.ops.finite import largest, largest_reference
from qvg.ops.hadamard import hadamard, hadamard_reference
from qvg.ops.kmeans import Clusters, kmeans, kmeans_reference
from qvg.ops.pack.reference import Bits, Code
from qvg.ops.reconstruct import Fine, reconstruct, reconstruct_reference
from qvg.ops.residual import (
    channel_scales,
    channel_scales_reference,
    quantize_residual,
    quantize_residual_reference,
    refine,
    refine_reference,
    subtract,
    subtract_reference,
)
from qvg.ops.rotate import rotate, rotate_reference
from qvg.ops.seeding import (
    more_centroids,
    more_centroids_reference,
    seed_centroids,
    seed_centroids_reference,
)
from qvg.rope import grid_rope

LENGTHS = (1, 63, 1561)
HEADS, CHANNELS, CLUSTERS = 2, 128, 20
SPREAD = 400  # prototypes: more than there are clusters, so that clustering them well matters
# code, group, stages of every preset
CODES: tuple[tuple[Code, int, int], ...] = (
    ("int2", 64, 1),
    ("int2", 16, 4),
    ("int4", 64, 1),
    ("quad", 64, 1),
    ("trit", 128, 1),
    ("sign", 128, 2),
)
FEW_LEVELS = ("int2", "sign", "trit", "quad")
AXES: tuple[Literal["channels", "tokens"], ...] = ("channels", "tokens")
BITS: tuple[Bits, ...] = (2, 4)


LONGEST = 200  # characters of a foreign message
# How far apart, and how far that may be.
Comparison = Callable[[], tuple[float, float]]


class Check(NamedTuple):
    """How far a result is from plain torch's, or the `problem` that kept it from being made."""

    name: str
    error: float
    limit: float
    problem: str = ""

    @property
    def passed(self) -> bool:
        return not self.problem and self.error <= self.limit  # False for NaN

    @property
    def sentence(self) -> str:
        """What is wrong; empty where nothing is."""
        if self.passed:
            return ""
        if self.problem:
            return f"{self.name} does not run: {self.problem}."
        return f"{self.name} differs from plain torch by {self.error:.3g}, at most {self.limit:g} is right."


def checks(device: torch.device, lengths: Sequence[int] = LENGTHS) -> Iterator[Check]:
    """Compares every kernel with its reference, on as many tokens each as `lengths` say."""
    for count in lengths:
        for name, compare in _kernels(device, count):
            yield _checked(f"{name}, {count} tokens", compare)
    for name, compare in _rotations(device):
        yield _checked(name, compare)


def preset_checks(
    device: torch.device, presets: Mapping[str, CodecConfig], head_dim: int, tokens: int = 613
) -> Iterator[Check]:
    """Compares encoding and decoding of heads of `head_dim` channels with plain torch on the CPU.

    Clusters are those of the presets: kernels are compiled for their number.
    """
    for name, config in presets.items():
        yield _checked(
            name, lambda config=config: _codec(device, config, _tokens(tokens, device, head_dim, SPREAD))
        )


def _checked(name: str, compare: Comparison) -> Check:
    try:
        return Check(name, *compare())
    except Exception as error:  # of compilers and drivers, which have classes of their own
        words = shorten(str(error), LONGEST).rstrip(".")
        return Check(
            name, float("nan"), 0.0, f"{type(error).__name__}: {words}" if words else type(error).__name__
        )


def _codec(device: torch.device, config: CodecConfig, x: Tensor) -> tuple[float, float]:
    """Returns the larger of two errors, relative to what each may be; so the limit is 1."""
    worst = 0.0
    for tensor in ("k", "v"):
        codec = build_codec(config, tensor)
        plain = codec.encode(x.cpu())
        payload = codec.encode(x)
        for _ in range(2):
            found = codec.decode(payload).float().cpu()
            parts = {name: part.cpu() for name, part in payload.parts.items()}
            decoded = codec.decode(payload.with_parts(parts)).float()
            # BF16 numbers, from sums in another order.
            worst = max(worst, _apart(found, decoded) / 4e-3)
            lost, usual = _apart(found, x.cpu()), _apart(codec.decode(plain), x.cpu())
            worst = max(worst, lost / (1.1 * usual + 4e-3))
            payload = codec.encode(x, payload)
    return worst, 1.0


def _rotations(device: torch.device) -> Iterator[tuple[str, Comparison]]:
    rope = grid_rope(40, 5, 7, (22, 21, 21), device=device)
    x = _tokens(3 * 35, device)

    def decoding() -> tuple[float, float]:
        labels, centroids = _clusters(x)
        parts = (*quantize_residual_reference(x, labels, centroids, 64, "int2"), labels, centroids, "int2")
        expected = rotate_reference(reconstruct_reference(*parts, torch.float32), rope, 5)
        return _apart(reconstruct(*parts, torch.bfloat16, rope=rope, first_frame=5), expected), 4e-3

    yield "rotate", lambda: (_apart(rotate(x, rope, 5), rotate_reference(x.float(), rope, 5)), 4e-3)
    yield "reconstruct with rotation", decoding


def _kernels(device: torch.device, count: int) -> Iterator[tuple[str, Comparison]]:
    x = _tokens(count, device)
    size = min(CLUSTERS, count)
    clusters = Clusters(*(each[0] for each in _clusters(x)))

    def no_worse(found: Tensor, expected: Tensor, limit: float) -> tuple[float, float]:
        return _potential(x, found) / max(_potential(x, expected), 1e-3) - 1, limit

    yield "largest", lambda: (_apart(largest(x), largest_reference(x)), 0.0)
    yield (
        "seed_centroids",
        lambda: no_worse(seed_centroids(x, size, 7), seed_centroids_reference(x, size, 7), 0.1),
    )
    yield (
        "kmeans",
        lambda: no_worse(kmeans(x, size, 2, 3).centroids, kmeans_reference(x, size, 2, 3).centroids, 0.02),
    )
    kept = _tokens(size, device) + 2
    yield (
        "more_centroids",
        lambda: no_worse(
            more_centroids(x, kept, size + 4, 7), more_centroids_reference(x, kept, size + 4, 7), 0.1
        ),
    )
    yield "subtract", lambda: (_apart(subtract(x, clusters), subtract_reference(x, clusters)), 4e-3)
    for code, group, stages in CODES:
        for name, compare in _residuals(x, code, group, stages):
            yield f"{name} {code}", compare
    for bits in BITS:
        for axis in AXES:
            for name, compare in _affine(x, bits, axis):
                yield f"{name} {bits} {axis}", compare
    yield "hadamard", lambda: (_apart(hadamard(x), hadamard_reference(x)), 1e-5)
    yield "merge", lambda: _merged(x)


def _residuals(x: Tensor, code: Code, group: int, stages: int) -> Iterator[tuple[str, Comparison]]:
    labels, centroids = _clusters(x, stages)
    channels = None if code.startswith("int") else channel_scales_reference(x, labels, centroids)
    right = quantize_residual_reference(x, labels, centroids, group, code, None, channels)
    rest = (labels, centroids, code, torch.float32)
    expected = reconstruct_reference(*right, *rest, channels=channels)

    def quantized() -> tuple[float, float]:
        found = quantize_residual(x, labels, centroids, group, code, None, channels)
        decoded = reconstruct_reference(*found, *rest, channels=channels)
        # Sums in another order move a scale, or a value across a boundary, now and then.
        return abs(_apart(decoded, x) - _apart(expected, x)), 1e-3

    yield "quantize_residual", quantized
    yield "reconstruct", lambda: (_apart(reconstruct(*right, *rest, channels=channels), expected), 1e-5)
    if code in FEW_LEVELS:
        fine = refine_reference(x, labels, centroids, *right, code, None, channels)
        finer = reconstruct_reference(*right, *rest, channels=channels, fine=Fine(*fine))

        def refined() -> tuple[float, float]:
            found = Fine(*refine(x, labels, centroids, *right, code, None, channels))
            decoded = reconstruct(*right, *rest, channels=channels, fine=found)
            return abs(_apart(decoded, x) - _apart(finer, x)), 1e-3

        yield "refine", refined
    if channels is not None:
        # A root in the middle between two powers may become either.
        yield "channel_scales", lambda: (_apart(channel_scales(x, labels, centroids), channels), 0.1)


def _affine(x: Tensor, bits: Bits, axis: Literal["channels", "tokens"]) -> Iterator[tuple[str, Comparison]]:
    right = quantize_affine_reference(x, 64, bits, axis)
    rest = (64, bits, axis, torch.float32)
    expected = dequantize_affine_reference(*right, *rest)
    yield (
        "quantize_affine",
        lambda: (
            _apart(dequantize_affine_reference(*quantize_affine(x, 64, bits, axis), *rest), expected),
            0.02,
        ),
    )
    yield "dequantize_affine", lambda: (_apart(dequantize_affine(*right, *rest), expected), 1e-5)


def _merged(x: Tensor) -> tuple[float, float]:
    first, second = Partial(x, x[..., 0].float()), Partial(x.flip(2), x[..., 1].float())
    total = Total(first)
    total.add(second)
    return _apart(total.out, merge(Partial(x.float(), first.lse), second).out), 1e-5


def _tokens(count: int, device: torch.device, head_dim: int = CHANNELS, around: int = 12) -> Tensor:
    """bf16 [1, HEADS, count, head_dim] around some prototypes, cut out of a longer buffer."""
    generator = torch.Generator().manual_seed(0)
    prototypes = 3 * torch.randn(1, HEADS, around, head_dim, generator=generator)
    which = torch.randint(around, (1, HEADS, count + 9, 1), generator=generator).expand(-1, -1, -1, head_dim)
    x = prototypes.gather(2, which) + 0.5 * torch.randn(which.shape, generator=generator)
    return x.to(device, torch.bfloat16)[:, :, 4 : 4 + count]


def _clusters(x: Tensor, stages: int = 1) -> tuple[Tensor, Tensor]:
    """labels [N, B, H, S] and centroids [N, B, H, K, D] that are anything."""
    generator = torch.Generator().manual_seed(5)
    count = min(CLUSTERS, x.shape[2])
    labels = torch.randint(count, (stages, *x.shape[:3]), generator=generator).to(torch.uint8)
    centroids = torch.randn(stages, *x.shape[:2], count, x.shape[3], generator=generator).bfloat16()
    return labels.to(x.device), centroids.to(x.device)


def _potential(x: Tensor, centroids: Tensor) -> float:
    return torch.cdist(x.float(), centroids.float()).amin(-1).square().mean().item()


def _apart(x: Tensor, expected: Tensor) -> float:
    return ((x.float() - expected.float()).norm() / expected.float().norm().clamp_min(1e-30)).item()
