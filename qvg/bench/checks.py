"""Every kernel against its plain-torch reference on the device about to be measured.

Timings of kernels that compute something else are worth nothing: `ops` refuses where one of these is red.
Lengths are awkward, and input is a slice of something larger.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from qvg.ops.affine import (
    dequantise_affine,
    dequantise_affine_reference,
    quantise_affine,
    quantise_affine_reference,
)
from qvg.ops.attention import Partial, Total, merge
from qvg.ops.finite import largest, largest_reference
from qvg.ops.hadamard import hadamard, hadamard_reference
from qvg.ops.kmeans import Clusters, kmeans, kmeans_reference
from qvg.ops.pack.reference import Bits, Code
from qvg.ops.reconstruct import reconstruct, reconstruct_reference
from qvg.ops.residual import quantise_residual, quantise_residual_reference, subtract, subtract_reference
from qvg.ops.rotate import rotate, rotate_reference
from qvg.ops.seeding import seed_centroids, seed_centroids_reference
from qvg.rope import grid_rope

LENGTHS = (1, 63, 1561)
HEADS, CHANNELS, CLUSTERS = 2, 128, 20
# code, group, stages of every preset
CODES: tuple[tuple[Code, int, int], ...] = (
    ("int2", 64, 1),
    ("int2", 16, 4),
    ("int4", 64, 1),
    ("quad", 64, 1),
    ("trit", 128, 1),
    ("sign", 128, 2),
)
AXES: tuple[Literal["channels", "tokens"], ...] = ("channels", "tokens")
BITS: tuple[Bits, ...] = (2, 4)


class Check(NamedTuple):
    name: str
    error: float
    limit: float

    @property
    def passed(self) -> bool:
        return self.error <= self.limit  # False for NaN


def checks(device: torch.device) -> Iterator[Check]:
    """What was compared, how far apart it was, and how far it may be."""
    for count in LENGTHS:
        for name, error, limit in _checks(device, count):
            yield Check(f"{name}, {count} tokens", error, limit)
    rope = grid_rope(40, 5, 7, (22, 21, 21), device=device)
    x = _tokens(3 * 35, device)
    expected = rotate_reference(x.float(), rope, 5)
    yield Check("rotate", _apart(rotate(x, rope, 5), expected), 4e-3)
    labels, centroids = _clusters(x)
    parts = (*quantise_residual_reference(x, labels, centroids, 64, "int2"), labels, centroids, "int2")
    expected = rotate_reference(reconstruct_reference(*parts, torch.float32), rope, 5)
    found = reconstruct(*parts, torch.bfloat16, rope=rope, first_frame=5)
    yield Check("reconstruct with rotation", _apart(found, expected), 4e-3)


def _checks(device: torch.device, count: int) -> Iterator[tuple[str, float, float]]:
    x = _tokens(count, device)
    yield "largest", _apart(largest(x), largest_reference(x)), 0.0
    size = min(CLUSTERS, count)
    for name, found, expected, limit in (
        ("seed_centroids", seed_centroids(x, size, 7), seed_centroids_reference(x, size, 7), 0.1),
        ("kmeans", kmeans(x, size, 2, 3).centroids, kmeans_reference(x, size, 2, 3).centroids, 0.02),
    ):
        yield name, _potential(x, found) / max(_potential(x, expected), 1e-3) - 1, limit
    labels, centroids = _clusters(x)
    clusters = Clusters(labels[0], centroids[0])
    yield "subtract", _apart(subtract(x, clusters), subtract_reference(x, clusters)), 4e-3
    for code, group, stages in CODES:
        labels, centroids = _clusters(x, stages)
        found = quantise_residual(x, labels, centroids, group, code)
        right = quantise_residual_reference(x, labels, centroids, group, code)
        rest = (labels, centroids, code, torch.float32)
        errors = [_apart(reconstruct_reference(*parts, *rest), x) for parts in (found, right)]
        # Sums in another order move a scale, or a value across a boundary, now and then.
        yield f"quantise_residual {code}", abs(errors[0] - errors[1]), 1e-3
        expected = reconstruct_reference(*right, *rest)
        yield f"reconstruct {code}", _apart(reconstruct(*right, *rest), expected), 1e-5
    for bits in BITS:
        for axis in AXES:
            found = quantise_affine(x, 64, bits, axis)
            right = quantise_affine_reference(x, 64, bits, axis)
            rest = (64, bits, axis, torch.float32)
            expected = dequantise_affine_reference(*right, *rest)
            yield f"quantise_affine {bits} {axis}", _apart(dequantise_affine(*found, *rest), expected), 0.02
            yield f"dequantise_affine {bits} {axis}", _apart(dequantise_affine(*right, *rest), expected), 1e-5
    yield "hadamard", _apart(hadamard(x), hadamard_reference(x)), 1e-5
    pieces = [Partial(x, x[..., 0].float()), Partial(x.flip(2), x[..., 1].float())]
    total = Total(pieces[0])
    total.add(pieces[1])
    yield "merge", _apart(total.out, merge(Partial(x.float(), pieces[0].lse), pieces[1]).out), 1e-5


def _tokens(count: int, device: torch.device) -> Tensor:
    """bf16 [1, HEADS, count, CHANNELS] around a dozen prototypes, cut out of a longer buffer."""
    generator = torch.Generator().manual_seed(0)
    prototypes = 3 * torch.randn(1, HEADS, 12, CHANNELS, generator=generator)
    which = torch.randint(12, (1, HEADS, count + 9, 1), generator=generator).expand(-1, -1, -1, CHANNELS)
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
