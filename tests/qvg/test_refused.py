"""A kernel that cannot run here: plain torch does its work, one sentence says so, and no run ends."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest
import torch
from torch import Tensor

from qvg import PRESETS, build_codec
from qvg.config import BF16Config, with_clusters
from qvg.ops import kernels
from qvg.ops.affine import (
    dequantize_affine,
    dequantize_affine_reference,
    quantize_affine,
    quantize_affine_reference,
)
from qvg.ops.attention import Partial, Total, merge, partial_attention_reference
from qvg.ops.eight_bit import as_bf16, eight_bit_attention, query
from qvg.ops.finite import largest, largest_reference
from qvg.ops.hadamard import hadamard, hadamard_reference
from qvg.ops.kmeans import Clusters, kmeans, kmeans_reference
from qvg.ops.reconstruct import reconstruct, reconstruct_reference
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

triton = pytest.importorskip("triton")

from triton.runtime.errors import OutOfResources, PTXASError  # noqa: E402

from qvg.ops import triton as launching  # noqa: E402

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="kernels run on the CPU here, in Triton's interpreter: off on a GPU"
)

HEADS, TOKENS, CLUSTERS = 2, 70, 20
ROPE = grid_rope(8, 5, 7, (12, 10, 10))
NO_ROOM = OutOfResources(114_952, 101_376, "shared memory")


class Broken:
    """A kernel whose launch fails."""

    def __init__(self, kernel: Any, error: Exception) -> None:
        self.fn, self.error, self.tried = kernel.fn, error, 0

    def __getitem__(self, grid: object) -> Callable[..., Any]:
        def run(*arguments: Any, **options: Any) -> Any:
            self.tried += 1
            raise self.error

        return run


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "DEVICES", ("cpu",))
    monkeypatch.setattr(kernels, "_refused", {})
    monkeypatch.setattr(launching, "_compiled", {})


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Broken]:
    def make(module: str, name: str, error: Exception = NO_ROOM) -> Broken:
        home = import_module(module)
        kernel = Broken(getattr(home, name), error)
        monkeypatch.setattr(home, name, kernel)
        return kernel

    return make


def tokens(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, HEADS, TOKENS, 64, generator=generator).bfloat16()


def clusters() -> Clusters:
    return kmeans_reference(tokens(), CLUSTERS, 1, 0)


def start() -> Tensor:
    return clusters().centroids


def encoded() -> tuple[Any, ...]:
    labels, centroids = (x.unsqueeze(0) for x in clusters())
    return *quantize_residual_reference(tokens(), labels, centroids, 64, "int2"), labels, centroids, "int2"


def grouped() -> tuple[Any, ...]:
    return *quantize_affine_reference(tokens(), 64, 2, "channels"), 64, 2, "channels"


def total(kernel: bool) -> Tensor:
    pieces = [Partial(tokens(seed), tokens(seed)[..., 0].float()) for seed in (1, 2, 3)]
    if kernel:
        total = Total()
        for piece in pieces:
            total.add(piece)
        return total.out
    first = merge(Partial(pieces[0].out.float(), pieces[0].lse), pieces[1])
    return merge(first, pieces[2]).out


def turned_in_place(turn: Callable[..., Tensor]) -> Tensor:
    x = tokens()
    assert turn(x, ROPE, 1, x).data_ptr() == x.data_ptr()
    return x


K_MEANS, SEEDING = "qvg.ops.kmeans.triton", "qvg.ops.seeding.triton"
OPS: list[tuple[str, str, Callable[[], Any], Callable[[], Any]]] = [
    (
        K_MEANS,
        "_nearest",
        lambda: kmeans(tokens(), CLUSTERS, 2, 3),
        lambda: kmeans_reference(tokens(), CLUSTERS, 2, 3),
    ),
    (
        # In the middle: labels are there, and means were about to be written over the centroids.
        K_MEANS,
        "_means",
        lambda: kmeans(tokens(), CLUSTERS, 2, 3, start()),
        lambda: kmeans_reference(tokens(), CLUSTERS, 2, 3, start()),
    ),
    (
        SEEDING,
        "_draw",
        lambda: seed_centroids(tokens(), CLUSTERS, 7),
        lambda: seed_centroids_reference(tokens(), CLUSTERS, 7).bfloat16(),
    ),
    (
        SEEDING,
        "_kept",
        lambda: seed_centroids(tokens(), CLUSTERS, 7, start()),
        lambda: seed_centroids_reference(tokens(), CLUSTERS, 7, start()).bfloat16(),
    ),
    ("qvg.ops.finite.triton", "_largest", lambda: largest(tokens()), lambda: largest_reference(tokens())),
    (
        "qvg.ops.hadamard.triton",
        "_hadamard",
        lambda: hadamard(tokens()),
        lambda: hadamard_reference(tokens()),
    ),
    (
        "qvg.ops.residual.triton",
        "_subtract",
        lambda: subtract(tokens(), clusters()),
        lambda: subtract_reference(tokens(), clusters()).bfloat16(),
    ),
    (
        "qvg.ops.seeding.triton",
        "_near",
        lambda: more_centroids(tokens(), start(), CLUSTERS + 2, 7),
        lambda: more_centroids_reference(tokens(), start(), CLUSTERS + 2, 7).bfloat16(),
    ),
    (
        "qvg.ops.residual.triton",
        "_refine",
        lambda: refine(tokens(), *(encoded()[i] for i in (2, 3, 0, 1)), "int2"),
        lambda: refine_reference(tokens(), *(encoded()[i] for i in (2, 3, 0, 1)), "int2"),
    ),
    (
        "qvg.ops.residual.triton",
        "_energy",
        lambda: channel_scales(tokens(), *(x.unsqueeze(0) for x in clusters())),
        lambda: channel_scales_reference(tokens(), *(x.unsqueeze(0) for x in clusters())),
    ),
    (
        "qvg.ops.residual.triton",
        "_quantize",
        lambda: quantize_residual(tokens(), *(x.unsqueeze(0) for x in clusters()), 64, "trit"),
        lambda: quantize_residual_reference(tokens(), *(x.unsqueeze(0) for x in clusters()), 64, "trit"),
    ),
    (
        "qvg.ops.reconstruct.triton",
        "_reconstruct",
        lambda: reconstruct(*encoded(), torch.bfloat16, rope=ROPE, first_frame=1),
        lambda: reconstruct_reference(*encoded(), torch.bfloat16, rope=ROPE, first_frame=1),
    ),
    (
        "qvg.ops.affine.triton",
        "_quantize",
        lambda: quantize_affine(tokens(), 64, 2, "tokens"),
        lambda: quantize_affine_reference(tokens(), 64, 2, "tokens"),
    ),
    (
        "qvg.ops.affine.triton",
        "_dequantize",
        lambda: dequantize_affine(*grouped(), torch.bfloat16, 35, rope=ROPE),
        lambda: dequantize_affine_reference(*grouped(), torch.bfloat16, 35, rope=ROPE),
    ),
    (
        "qvg.ops.rotate.triton",
        "_rotate",
        lambda: turned_in_place(rotate),
        lambda: turned_in_place(rotate_reference),
    ),
    ("qvg.ops.attention.triton", "_merge", lambda: total(True), lambda: total(False)),
    (
        "qvg.ops.eight_bit.triton",
        "_attend",
        lambda: eight_bit_attention(query(tokens()), tokens(1), tokens(2)),
        lambda: partial_attention_reference(as_bf16(query(tokens())), tokens(1), tokens(2)),
    ),
]


@pytest.mark.parametrize(
    ("module", "name", "op", "reference"), OPS, ids=[f"{op[0][8:-7]}{op[1]}" for op in OPS]
)
def test_plain_torch_does_the_work(
    module: str, name: str, op: Any, reference: Any, broken: Callable[..., Broken]
) -> None:
    with pytest.MonkeyPatch.context() as plain:
        plain.setattr(kernels, "DEVICES", ())
        expected = reference()
    kernel = broken(module, name)
    for _ in range(2):
        found = op()
        for part, right in zip(
            *((x,) if isinstance(x, Tensor) else x for x in (found, expected)), strict=True
        ):
            assert part.dtype == right.dtype and part.shape == right.shape
            assert torch.equal(part.float(), right.float())
    assert kernel.tried == 1 or name == "_merge"  # that one has arguments of two kinds
    (sentence,) = kernels.refused()
    place = f"{module.removesuffix('.triton')}.{name}"
    assert sentence == (
        f"The kernel {place} cannot run here (it needs 114,952 bytes of shared memory, the GPU has 101,376): "
        "plain torch does its work, slower."
    )


def test_queries_come_back_from_eight_bits() -> None:
    q = tokens()
    assert (as_bf16(query(q)).float() - q.float()).norm() < 0.04 * q.float().norm()


@pytest.mark.parametrize("preset", ["QVG INT2", "QVG-Max", "QVG-Pro INT2"])
def test_a_payload_of_kernels_and_plain_torch_decodes(preset: str, broken: Callable[..., Broken]) -> None:
    config = with_clusters(PRESETS[preset], 8)
    assert not isinstance(config, BF16Config)
    codec, x = build_codec(config), torch.cat([tokens(), tokens(1)], dim=3)
    kernel = broken(K_MEANS, "_sums")
    broken("qvg.ops.residual.triton", "_subtract")
    payload = codec.encode(x)
    warm = codec.encode(x, payload)
    assert kernel.tried <= 2  # of tokens that are cleaned, and of residuals
    for each in (payload, warm):
        assert each.stored_bytes == config.stored_bytes(*x.shape)
        decoded = codec.decode(each).float()
        assert (decoded - x.float()).norm() < 0.9 * x.float().norm()


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PTXASError("ptxas fatal: Unknown gpu-name sm_120"), "cannot be compiled: PTXASError, PTXAS error"),
        (OutOfResources(2048, 1024, "threads"), "needs 2,048 of threads"),
        (subprocess.CalledProcessError(1, ["gcc"]), "needs a C compiler and Python's headers"),
        (RuntimeError("Failed to find C compiler. Please specify via CC."), "Failed to find C compiler"),
        (RuntimeError("Triton Error [CUDA]: no kernel image is available for execution"), "no kernel image"),
        (RuntimeError("PassManager::run failed"), "PassManager"),
        (PermissionError(errno.EACCES, "Permission denied", "/root/.triton"), "Permission denied"),
        (ImportError("libcuda.so.1: cannot open shared object file"), "libcuda.so.1"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_refuses_a_kernel(error: Exception, words: str, broken: Callable[..., Broken]) -> None:
    broken("qvg.ops.finite.triton", "_largest", error)
    assert torch.equal(largest(tokens()), largest_reference(tokens()))
    (sentence,) = kernels.refused()
    assert words in sentence


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("Triton Error [CUDA]: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        TypeError("dynamic_func() missing a required argument"),
        ValueError("unexpected"),
        KeyError("num_warp"),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_what_is_raised(error: Any, broken: Callable[..., Broken]) -> None:
    broken("qvg.ops.finite.triton", "_largest", error)
    for _ in range(2):
        with pytest.raises(type(error)):
            largest(tokens())
    assert kernels.refused() == []


def test_what_fails_after_the_first_launch_is_raised() -> None:
    """The kernel has been built and loaded: whatever is wrong then is not that it cannot run here."""
    from qvg.ops.finite.triton import _largest

    loaded = Broken(_largest, RuntimeError("Triton Error [CUDA]: no kernel image is available"))

    class Kernel:
        fn = _largest.fn

        def __getitem__(self, grid: object) -> Callable[..., Broken]:
            return lambda *arguments, **options: loaded

    kernel = Kernel()
    launching.launch(kernel, (1, 1, 1), (tokens(),), (1,), (), 4)
    with pytest.raises(RuntimeError, match="no kernel image"):
        launching.launch(kernel, (1, 1, 1), (tokens(),), (1,), (), 4)
