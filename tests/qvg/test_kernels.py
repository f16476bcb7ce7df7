"""Every Triton kernel against its plain-torch reference: on a GPU where there is one, else interpreted.

Lengths are awkward, input is a slice of something larger, and memory nobody wrote is full of NaN.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from qvg import PRESETS, QVG, QVG_PLUS, build_codec
from qvg.config import BF16Config, PRQConfig, SplitConfig
from qvg.ops import kernels as dispatch
from qvg.ops.affine import (
    dequantize_affine,
    dequantize_affine_reference,
    quantize_affine,
    quantize_affine_reference,
)
from qvg.ops.attention import Partial, Total, merge
from qvg.ops.card import ROOMY, TIGHT, Card
from qvg.ops.finite import finite, largest, largest_reference
from qvg.ops.hadamard import hadamard, hadamard_reference
from qvg.ops.kmeans import Clusters, assigned, kmeans, kmeans_reference
from qvg.ops.pack import unpack
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
from qvg.ops.triton import launch
from qvg.payload import some_heads
from qvg.rope import grid_rope
from tests.qvg.interpreter import mend

pytest.importorskip("triton")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter needs a second for what a GPU does at once.
LENGTHS, ROWS, WHOLE = ((1, 63, 1560, 1561), 20, 257) if DEVICE == "cuda" else ((1, 63, 520, 521), 7, 129)
HEADS, CLUSTERS = 2, 20

pytestmark = pytest.mark.usefixtures("kernels")


@pytest.fixture(scope="module", autouse=True)
def interpreted() -> Any:
    """The interpreter takes a millisecond for each function a program calls: fewer, larger programs."""
    monkeypatch = pytest.MonkeyPatch()
    if DEVICE == "cpu":
        mend(monkeypatch)
        monkeypatch.setattr("qvg.ops.reconstruct.triton.BLOCK", 128)
    yield
    monkeypatch.undo()


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels run on the device of the tests, and new memory is poisoned."""
    monkeypatch.setattr(dispatch, "DEVICES", (DEVICE,))
    empty = torch.empty

    def poisoned(*shape: Any, **options: Any) -> Tensor:
        memory = empty(*shape, **options)
        return memory.fill_(float("nan") if memory.is_floating_point() else 113)

    monkeypatch.setattr(torch, "empty", poisoned)


def tokens(count: int, head_dim: int = 128, seed: int = 0, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """[1, HEADS, count, head_dim] around a dozen prototypes, cut out of a longer buffer."""
    generator = torch.Generator().manual_seed(seed)
    prototypes = 3 * torch.randn(1, HEADS, 12, head_dim, generator=generator)
    which = torch.randint(12, (1, HEADS, count + 9, 1), generator=generator).expand(-1, -1, -1, head_dim)
    x = prototypes.gather(2, which) + 0.5 * torch.randn(which.shape, generator=generator)
    return x.to(DEVICE, dtype)[:, :, 4 : 4 + count]


def relative(a: Tensor, b: Tensor) -> float:
    return ((a.float() - b.float()).norm() / b.float().norm()).item()


def clusters_of(x: Tensor, stages: int = 1) -> tuple[Tensor, Tensor]:
    """labels [N, B, H, S] and centroids [N, B, H, K, D] that are anything."""
    generator = torch.Generator().manual_seed(5)
    count = min(CLUSTERS, x.shape[2])
    labels = torch.randint(count, (stages, *x.shape[:3]), generator=generator).to(torch.uint8)
    centroids = torch.randn(stages, *x.shape[:2], count, x.shape[3], generator=generator).bfloat16()
    return labels.to(DEVICE), centroids.to(DEVICE)


def channels_of(x: Tensor) -> Tensor:
    """bf16 powers of two [B, H, D] that are anything."""
    exponents = torch.randint(-20, 12, (*x.shape[:2], x.shape[3]), generator=torch.Generator().manual_seed(4))
    return torch.ldexp(torch.ones(exponents.shape), exponents).bfloat16().to(DEVICE)


def spoilt(x: Tensor) -> Tensor:
    x = x.clone()
    x[0, 0, 0, 3], x[0, 1, -1, 0], x[0, 1, 0, 1] = float("nan"), float("inf"), -float("inf")
    return x


@pytest.mark.parametrize("count", LENGTHS)
def test_the_largest_finite_magnitude(count: int) -> None:
    x = spoilt(tokens(count))
    assert torch.equal(largest(x), largest_reference(x))


@pytest.mark.parametrize("count", LENGTHS)
def test_where_k_means_starts(count: int) -> None:
    x = tokens(count)
    size = min(CLUSTERS, count)
    cold, expected = seed_centroids(x, size, 7), seed_centroids_reference(x, size, 7)
    assert cold.isfinite().all()
    assert potential(x, cold) < 1.1 * potential(x, expected) + 1e-6
    # Every centroid in one place: nearly all must move.
    start = x[:, :, :1].expand(-1, -1, size, -1).bfloat16()
    warm, expected = seed_centroids(x, size, 7, start), seed_centroids_reference(x, size, 7, start)
    assert warm.isfinite().all()
    assert potential(x, warm) < 1.1 * potential(x, expected) + 1e-6


def potential(x: Tensor, centroids: Tensor) -> float:
    return torch.cdist(x.float(), centroids.float()).amin(-1).square().mean().item()


@pytest.mark.parametrize(("count", "head_dim"), [*((count, 128) for count in LENGTHS), (63, 64), (200, 256)])
def test_k_means(count: int, head_dim: int) -> None:
    x = tokens(count, head_dim)
    found = kmeans(x, CLUSTERS, 2, seed=3)
    expected = kmeans_reference(x, CLUSTERS, 2, seed=3)
    assert found.labels.shape == expected.labels.shape and found.centroids.shape == expected.centroids.shape
    assert error(x, found) < 1.02 * error(x, expected) + 1e-6
    again = kmeans(x, CLUSTERS, 0, seed=3, start=found.centroids)
    distances = torch.cdist(x.float(), found.centroids.float())
    chosen = distances.gather(3, again.labels.long().unsqueeze(-1)).squeeze(-1)
    # Scores are products of BF16 numbers added up in FP32: nearest up to that.
    assert (chosen <= distances.amin(-1) + 1e-2).all()


@pytest.mark.parametrize(("count", "head_dim"), [*((count, 128) for count in LENGTHS), (63, 64), (200, 256)])
def test_cards_with_little_shared_memory(count: int, head_dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Smaller tiles give the labels of the larger, bit for bit, and means as near to the tokens."""
    from qvg.ops.kmeans.triton import assign

    generator = torch.Generator().manual_seed(6)
    # Whole numbers: no order of adding changes a score, and many tokens are as near to one as to another.
    whole = torch.randint(-3, 4, (1, HEADS, count + 9, head_dim), generator=generator)
    whole = whole.to(DEVICE, torch.bfloat16)[:, :, 4 : 4 + count]
    centroids = whole[:, :, : min(40, count)].contiguous()
    bad = spoilt(tokens(count, head_dim))
    limit = largest(bad)
    found = []
    for tiles in (ROOMY, TIGHT):
        monkeypatch.setattr(Card, "tiles", lambda self, head_dim, tiles=tiles: tiles)
        found.append([assign(whole, centroids, None), assign(bad, centroids, limit)])
        x = tokens(count, head_dim)
        clusters = kmeans(x, CLUSTERS, 2, seed=3)
        assert error(x, clusters) < 1.02 * error(x, kmeans_reference(x, CLUSTERS, 2, seed=3)) + 1e-6
        torch.testing.assert_close(hadamard(x.float()), hadamard_reference(x.float()), atol=1e-4, rtol=1e-4)
    for labels, others in zip(*found, strict=True):
        assert torch.equal(labels, others)


def error(x: Tensor, clusters: Clusters) -> float:
    return (x.float() - assigned(clusters)).square().mean().item()


def test_k_means_from_given_centroids() -> None:
    x = tokens(LENGTHS[-1])
    start = kmeans_reference(x, CLUSTERS, 1, seed=0).centroids
    warm, expected = kmeans(x, CLUSTERS, 1, 0, start), kmeans_reference(x, CLUSTERS, 1, 0, start)
    again = kmeans(x, CLUSTERS, 1, 0, start)
    assert torch.equal(warm.labels, again.labels) and torch.equal(warm.centroids, again.centroids)
    assert error(x, warm) < 1.02 * error(x, expected)
    kept = kmeans(x, CLUSTERS, 0, 0, start)
    assert torch.equal(kept.centroids, start)
    with pytest.raises(ValueError, match="start is"):
        kmeans(x, CLUSTERS + 1, 1, 0, start)


@pytest.mark.parametrize("count", [1, LENGTHS[1], LENGTHS[-1]])
def test_centroids_that_stay_beside_new_ones(count: int) -> None:
    # Far from all prototypes but some: new centroids are worth much.
    x = tokens(count)
    kept = tokens(40)[:, :, :13].contiguous() + 2
    drawn, expected = more_centroids(x, kept, CLUSTERS, 7), more_centroids_reference(x, kept, CLUSTERS, 7)
    assert torch.equal(drawn[:, :, :13], kept) and drawn.isfinite().all()
    assert potential(x, drawn) < 1.1 * potential(x, expected) + 1e-6
    assert torch.equal(more_centroids(x, kept, 13, 7), kept)
    for clusters in (CLUSTERS, 13):
        found = kmeans(x, clusters, 2, seed=3, kept=kept)
        again = kmeans(x, clusters, 2, seed=3, kept=kept)
        expected = kmeans_reference(x, clusters, 2, seed=3, kept=kept)
        assert torch.equal(found.centroids[:, :, :13], kept)
        assert torch.equal(found.labels, again.labels) and torch.equal(found.centroids, again.centroids)
        assert found.centroids.shape == expected.centroids.shape
        assert error(x, found) < 1.02 * error(x, expected) + 1e-6
    with pytest.raises(ValueError, match="kept is"):
        kmeans(x, 12, 2, seed=3, kept=kept)


@pytest.mark.parametrize("count", LENGTHS)
def test_subtracting_centroids(count: int) -> None:
    x = tokens(count)
    labels, centroids = clusters_of(x)
    clusters = Clusters(labels[0], centroids[0])
    assert torch.equal(subtract(x, clusters), subtract_reference(x, clusters).bfloat16())
    bad = spoilt(x)
    limit = largest(bad)
    assert torch.equal(subtract(bad, clusters, limit), subtract_reference(bad, clusters, limit).bfloat16())


@pytest.mark.parametrize("stages", [1, 2])
@pytest.mark.parametrize("count", LENGTHS)
def test_how_wide_channels_are(count: int, stages: int) -> None:
    wide = torch.tensor([0.01, 1.0, 30.0, 1000.0], device=DEVICE).repeat(32)
    for x in (tokens(count) * wide, spoilt(tokens(count)), torch.zeros_like(tokens(count))):
        labels, centroids = clusters_of(x, stages)
        limit = largest_reference(x)
        found = channel_scales(x, labels, centroids, limit)
        expected = channel_scales_reference(x, labels, centroids, limit)
        assert (found.shape, found.dtype) == (expected.shape, torch.bfloat16)
        # Sums in another order move a root across the middle of two powers now and then.
        assert (found == expected).float().mean() > 0.98
        assert (found.float().log2() - expected.float().log2()).abs().max() <= 1


@pytest.mark.parametrize(
    ("code", "group", "stages"),
    [("int2", 64, 1), ("int2", 16, 4), ("int4", 64, 1), ("quad", 64, 1), ("trit", 128, 1), ("sign", 128, 2)],
)
@pytest.mark.parametrize("count", LENGTHS)
def test_quantizing_residuals(count: int, code: Code, group: int, stages: int) -> None:
    x = tokens(count)
    labels, centroids = clusters_of(x, stages)
    channels = None if code.startswith("int") else channels_of(x)
    if channels is not None:
        # Wide channels are wide here, so that no scale is too large for FP8.
        x = (centroids[0].float().mean(2, keepdim=True) + x * channels.unsqueeze(2)).bfloat16()
    found = quantize_residual(x, labels, centroids, group, code, None, channels)
    expected = quantize_residual_reference(x, labels, centroids, group, code, None, channels)
    for part, right in zip(found, expected, strict=True):
        assert (part.shape, part.dtype) == (right.shape, right.dtype)
    # Sums in another order move a scale, or a value across a boundary, now and then.
    same = (found[1].view(torch.uint8) == expected[1].view(torch.uint8)).float().mean()
    levels, right_levels = (unpack(parts[0], code, tokens=count) for parts in (found, expected))
    assert same > 0.99 and (levels == right_levels).float().mean() > 0.995
    decoded, right = (
        reconstruct_reference(*parts, labels, centroids, code, torch.float32, channels=channels)
        for parts in (found, expected)
    )
    assert abs(relative(decoded, x) - relative(right, x)) < 1e-3


@pytest.mark.parametrize(
    ("code", "group", "stages", "head_dim"),
    [
        ("int2", 64, 1, 64),
        ("int2", 16, 4, 128),
        ("int4", 64, 1, 128),
        ("quad", 64, 1, 256),
        ("trit", 128, 1, 128),
        ("sign", 128, 2, 128),
        ("trit", 64, 2, 64),
    ],
)
@pytest.mark.parametrize("count", LENGTHS)
def test_decoding(count: int, code: Code, group: int, stages: int, head_dim: int) -> None:
    x = tokens(count, head_dim)
    labels, centroids = clusters_of(x, stages)
    channels = None if code.startswith("int") else channels_of(x)
    parts = quantize_residual_reference(x, labels, centroids, group, code)
    parts = (*parts, labels, centroids, code)
    precise = reconstruct(*parts, torch.float32, channels=channels)
    expected = reconstruct_reference(*parts, torch.float32, channels=channels)
    torch.testing.assert_close(precise, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(reconstruct(*parts, torch.bfloat16, channels=channels), precise.bfloat16())
    start = count // 3
    assert torch.equal(reconstruct(*parts, torch.float32, start, channels=channels), precise[:, :, start:])
    torch.testing.assert_close(
        reconstruct_reference(*parts, torch.float32, start, channels=channels),
        precise[:, :, start:],
        atol=1e-5,
        rtol=1e-5,
    )
    beyond = reconstruct(*parts, torch.float32, count, channels=channels)
    assert beyond.shape == (1, HEADS, 0, head_dim)


# Of the last tokens, whole runs are refined; a run of "trit" begins with a byte of its own.
@pytest.mark.parametrize(
    ("code", "group", "stages", "run", "runs"),
    [("quad", 64, 1, 63, 3), ("trit", 128, 1, 43, 3), ("sign", 128, 2, 20, 2), ("int2", 64, 1, 130, 1)],
)
def test_refining_the_last_tokens(code: Code, group: int, stages: int, run: int, runs: int) -> None:
    x = tokens(run * runs)
    labels, centroids = clusters_of(x, stages)
    x = (x.float() - 3 + centroids[0].float().mean(2, keepdim=True)).bfloat16()
    channels = None if code == "int2" else channel_scales_reference(x, labels, centroids)
    codes, scales = quantize_residual(x, labels, centroids, group, code, None, channels, run)
    right = quantize_residual_reference(x, labels, centroids, group, code, None, channels, run)
    assert codes.shape == right[0].shape
    assert (codes == right[0]).float().mean() > 0.95
    codes, scales = right
    last = slice(-run, None)
    rows = codes.shape[2] // runs
    parts = (x[:, :, last], labels[..., last], centroids, codes[:, :, -rows:], scales[:, :, last], code)
    found = refine(*parts, None, channels, run)
    expected = refine_reference(*parts, None, channels, run)
    for part, wanted in zip(found, expected, strict=True):
        assert (part.shape, part.dtype) == (wanted.shape, wanted.dtype)
    encoded = (codes, scales, labels, centroids, code, torch.float32)
    rest = {"channels": channels, "run": run, "fine": Fine(*expected)}
    decoded, plain = (
        reconstruct_reference(*encoded, **rest),
        reconstruct_reference(*encoded, channels=channels, run=run),
    )
    assert torch.equal(decoded[:, :, :-run], plain[:, :, :-run])
    assert relative(decoded[:, :, last], x[:, :, last]) < 0.5 * relative(plain[:, :, last], x[:, :, last])
    other = reconstruct_reference(*encoded, **{**rest, "fine": Fine(*found)})
    assert abs(relative(other, x) - relative(decoded, x)) < 1e-3
    for start in (0, run * runs - run // 2):
        part = reconstruct(*encoded, start, **rest)
        torch.testing.assert_close(part, decoded[:, :, start:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("rows", [1, 3, ROWS])
def test_decoding_with_rotation_into_a_given_place(rows: int) -> None:
    rope = grid_rope(40, rows, 26, (22, 21, 21), device=DEVICE)
    count = 3 * rows * 26
    x = tokens(count)
    labels, centroids = clusters_of(x)
    parts = quantize_residual_reference(x, labels, centroids, 64, "int2")
    parts = (*parts, labels, centroids, "int2", torch.bfloat16)
    plain = reconstruct(*parts)
    expected = rotate_reference(plain.float(), rope, 5)
    place = torch.full((1, count + 7, HEADS, 128), 3.0, dtype=torch.bfloat16, device=DEVICE).transpose(1, 2)
    out = place[:, :, 2 : 2 + count]
    found = reconstruct(*parts, rope=rope, first_frame=5, out=out)
    assert found.data_ptr() == out.data_ptr()
    # Rotated before it is rounded, where `expected` is rounded first.
    assert relative(out, expected) < 4e-3
    torch.testing.assert_close(rotate(plain, rope, 5).float(), expected, atol=2e-2, rtol=1e-2)
    assert (place[:, :, :2] == 3).all() and (place[:, :, 2 + count :] == 3).all()
    part = reconstruct(*parts, rows * 26, rope=rope, first_frame=6)
    assert torch.equal(part, out[:, :, rows * 26 :])
    with pytest.raises(ValueError, match="whole frames"):
        reconstruct(*parts, 1, rope=rope, first_frame=6)
    with pytest.raises(ValueError, match="out is"):
        reconstruct(*parts, out=out[:, :, 1:])


@pytest.mark.parametrize("axis", ["channels", "tokens"])
@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("count", LENGTHS)
def test_groups_with_a_zero_point(count: int, bits: Bits, axis: Any) -> None:
    x = tokens(count) + 2
    found, expected = quantize_affine(x, 64, bits, axis), quantize_affine_reference(x, 64, bits, axis)
    for part, right in zip(found, expected, strict=True):
        assert (part.shape, part.dtype) == (right.shape, right.dtype)
    settings = (64, bits, axis, torch.float32)
    decoded, right = dequantize_affine(*found, *settings), dequantize_affine_reference(*found, *settings)
    torch.testing.assert_close(decoded, right, atol=1e-5, rtol=1e-5)
    # Halfway between two levels or two FP8 numbers, the last bit of a product decides.
    assert relative(decoded, dequantize_affine_reference(*expected, *settings)) < 0.02
    assert abs(relative(decoded, x) - relative(dequantize_affine(*expected, *settings), x)) < 2e-3
    assert torch.equal(dequantize_affine(*found, *settings, count // 2), decoded[:, :, count // 2 :])


def test_groups_of_tokens_begin_anew_with_every_run() -> None:
    x = tokens(3 * 70) + 2
    found, expected = (
        function(x, 16, 2, "tokens", None, 70) for function in (quantize_affine, quantize_affine_reference)
    )
    settings = (16, 2, "tokens", torch.float32)
    assert [part.shape for part in found] == [part.shape for part in expected]
    alone = quantize_affine(x[:, :, 70:140], 16, 2, "tokens")
    decoded = dequantize_affine(*found, *settings, run=70)
    assert torch.equal(decoded[:, :, 70:140], dequantize_affine(*alone, *settings))
    torch.testing.assert_close(
        decoded, dequantize_affine_reference(*found, *settings, run=70), atol=1e-5, rtol=1e-5
    )
    assert relative(decoded, dequantize_affine_reference(*expected, *settings, run=70)) < 0.02
    assert torch.equal(dequantize_affine(*found, *settings, 100, run=70), decoded[:, :, 100:])


@pytest.mark.parametrize(("count", "head_dim"), [*((count, 128) for count in LENGTHS), (63, 64)])
def test_the_hadamard_rotation(count: int, head_dim: int) -> None:
    for x in (tokens(count, head_dim), tokens(count, head_dim, dtype=torch.float32)):
        torch.testing.assert_close(hadamard(x), hadamard_reference(x), atol=1e-4, rtol=1e-4)
    bad = spoilt(tokens(count, head_dim))
    torch.testing.assert_close(
        hadamard(*finite(bad)), hadamard_reference(bad, largest_reference(bad)), atol=1e-3, rtol=1e-4
    )


def smaller(config: Any) -> Any:
    if isinstance(config, SplitConfig):
        return SplitConfig(k=smaller(config.k), v=smaller(config.v))
    return replace(config, clusters=8, iterations=1) if isinstance(config, PRQConfig) else config


SMALLER = {name: smaller(config) for name, config in PRESETS.items() if not isinstance(config, BF16Config)}


@pytest.mark.parametrize(
    ("name", "tensor"), [*((name, "k") for name in SMALLER), ("KIVI INT2", "v"), ("QVG-Max", "v")]
)
def test_whole_codecs(name: str, tensor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = tokens(WHOLE)
    codec = build_codec(SMALLER[name], tensor)
    first = codec.encode(x)
    warm = codec.encode(spoilt(x), first)
    decoded = codec.decode(first)
    monkeypatch.setattr(dispatch, "DEVICES", ())
    assert relative(codec.decode(first), decoded) < 3e-3
    expected = relative(codec.decode(codec.encode(x))[:, :, 1:-1], x[:, :, 1:-1])
    for payload in (first, warm):
        assert payload.stored_bytes == SMALLER[name].stored_bytes(*x.shape, tensor)
        assert relative(codec.decode(payload)[:, :, 1:-1], x[:, :, 1:-1]) < 1.05 * expected


@pytest.mark.parametrize("magnitude", [0.0, 1e-30, 1e-4, 1e6, 3e38])
def test_magnitudes(magnitude: float) -> None:
    x = (tokens(100).float() * magnitude).bfloat16()
    for config in (replace(QVG, clusters=CLUSTERS), replace(QVG_PLUS, clusters=CLUSTERS)):
        codec = build_codec(config)
        decoded = codec.decode(codec.encode(x))
        assert decoded.isfinite().all()
        if magnitude in (0.0, 1e-30):
            assert decoded.abs().max() <= 1e-28


@pytest.mark.parametrize("name", SMALLER)
def test_heads_are_decoded_where_they_lie(name: str) -> None:
    x = torch.cat([tokens(42), tokens(42, seed=1)], dim=1).repeat(2, 1, 1, 1)
    codec = build_codec(SMALLER[name], "v")
    payload = codec.encode(x)
    whole = codec.decode(payload)
    part = codec.decode(some_heads(payload, slice(1, 3)), start=3)
    assert torch.equal(part, whole[:, 1:3, 3:])


@pytest.mark.parametrize("queries", [1, 63, 100])
def test_merging_partial_attentions(queries: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (2, 3, 2 * queries, 64)
    outs = [torch.randn(shape, generator=generator).bfloat16().to(DEVICE) for _ in range(3)]
    lses = [20 * torch.randn(shape[:3], generator=generator).to(DEVICE) for _ in range(3)]
    # Every other query: not contiguous.
    pieces = [Partial(out[:, :, ::2], lse[:, :, ::2]) for out, lse in zip(outs, lses, strict=True)]
    expected = Partial(pieces[0].out.float(), pieces[0].lse)
    total = Total()
    for piece in pieces:
        total.add(piece)
    for piece in pieces[1:]:
        expected = merge(expected, piece)
    torch.testing.assert_close(total.out, expected.out, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(total.lse, expected.lse, atol=1e-5, rtol=1e-5)
    assert torch.equal(pieces[0].out, outs[0][:, :, ::2])


def test_centroids_of_tokens() -> None:
    x = tokens(100)
    labels, centroids = clusters_of(x)
    expected = centroids[0].gather(2, labels[0].long().unsqueeze(-1).expand(-1, -1, -1, 128))
    assert torch.equal(assigned(Clusters(labels[0], centroids[0])), expected.float())


def test_a_kernel_is_looked_up_once_for_arguments_of_a_kind() -> None:
    ran: list[tuple[str, Any]] = []

    class Kernel:
        def __init__(self, name: str) -> None:
            self.name = name

        def __getitem__(self, grid: tuple[int, int, int]) -> Any:
            def run(*arguments: Any, **options: Any) -> Kernel:
                ran.append((self.name, (grid, *arguments[1:], options)))
                return Kernel(f"compiled {len(ran)}")

            return run

    kernel, x = Kernel("looked up"), torch.empty(64, dtype=torch.uint8, device=DEVICE)
    calls = [
        (x, 5, 32),
        (x[16:], 6, 32),
        (x[1:], 5, 32),
        (x, 5, 33),
        (x.view(torch.int8), 5, 32),
        (x[17:], 7, 32),
    ]
    for memory, number, stride in calls:
        launch(kernel, (number, 1, 1), (memory, None), (number,), (stride,), 4)
    looked_up = ("looked up", "compiled 1", "looked up", "looked up", "looked up", "compiled 3")
    for (name, found), right, (_, number, stride) in zip(ran, looked_up, calls, strict=True):
        options = {"num_warps": 4} if right == "looked up" else {}
        assert (name, found) == (right, ((number, 1, 1), None, number, stride, options))
