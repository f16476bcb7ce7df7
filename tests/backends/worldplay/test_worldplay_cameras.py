"""Turning keys and values by position and camera: the kernel beside plain torch, and what must not matter."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch
from torch import Tensor

from backends.worldplay import cameras
from backends.worldplay.cameras import Projections, project, rotate_and_project
from backends.worldplay.poses import Views
from qvg.rope import Rope, grid_rope
from tests.backends.worldplay.tiny import compound_path, walk

CPU = torch.device("cpu")


@pytest.fixture
def interpreted() -> Iterator[ModuleType]:
    """The kernel under Triton's interpreter, until the test is over."""
    pytest.importorskip("triton", reason="Triton is not installed")
    kernels = importlib.import_module("backends.worldplay.cameras_triton")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        yield importlib.reload(kernels)
    importlib.reload(kernels)


def turned(frames: int, tokens: int, device: torch.device | str = CPU) -> tuple[Rope, Tensor]:
    """Tables for frames of 1 x `tokens`, and the matrices of keys."""
    views = Views.of(walk(compound_path(3)))
    matrices = Projections.of(views, torch.eye(4, dtype=torch.float64), torch.device(device)).key
    return grid_rope(40, 1, tokens, (12, 10, 10), device=device), matrices[:frames]


def buffer_slice(heads: int, tokens: int, device: torch.device | str = CPU) -> Tensor:
    """fp32 [1, H, S, 64], part of something longer and in another order, as the cache and the model give
    it.
    """
    generator = torch.Generator().manual_seed(tokens)
    return (
        torch.randn(1, tokens + 5, heads, 64, generator=generator)
        .to(device)
        .transpose(1, 2)[:, :, 3 : 3 + tokens]
    )


@pytest.mark.parametrize(("frames", "tokens"), [(1, 1), (3, 21), (4, 33), (1, 7)])
def test_the_kernel_is_plain_torch(interpreted: ModuleType, frames: int, tokens: int) -> None:
    rope, matrices = turned(frames, tokens)
    x = buffer_slice(2, frames * tokens)
    rotated, projected = interpreted.turn(x, matrices, rope, 7)
    torch.testing.assert_close(rotated, rope(x, 7), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(projected, cameras.project_reference(x, matrices), atol=1e-4, rtol=1e-5)
    alone = interpreted.turn(x, matrices)
    assert alone[0] is None
    assert torch.equal(alone[1], projected)
    assert rotated.is_contiguous() and projected.is_contiguous()


def test_the_kernel_writes_nothing_else(interpreted: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is given to write to is full of NaN, and the rows around it stay as they were."""
    room = torch.full((4, 1, 2, 21, 64), torch.nan)
    places = iter((room[1], room[2]))
    monkeypatch.setattr(torch, "empty", lambda *_, **__: next(places))
    monkeypatch.setattr(torch, "empty_like", lambda *_: next(places))
    rope, matrices = turned(1, 21)
    interpreted.turn(buffer_slice(2, 21), matrices, rope)
    assert room[1:3].isfinite().all()
    assert room[[0, 3]].isnan().all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_kernel_on_a_gpu(dtype: torch.dtype) -> None:
    rope, matrices = turned(8, 880, "cuda")
    x = buffer_slice(24, 8 * 880, "cuda").to(dtype)
    tolerance = 1e-4 if dtype == torch.float32 else 4e-2
    for found, expected in zip(
        rotate_and_project(x, rope, 5, matrices),
        (rope(x, 5), cameras.project_reference(x, matrices)),
        strict=True,
    ):
        torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    assert torch.equal(project(x, matrices), rotate_and_project(x, rope, 5, matrices)[1])


def test_positions_beyond_the_table_are_refused() -> None:
    rope, matrices = turned(3, 5)
    with pytest.raises(ValueError, match="frames 38 to 40 are not all among the 40"):
        rotate_and_project(buffer_slice(2, 15), rope, 38, matrices)


def scores(views: Views, origin: Tensor) -> Tensor:
    """fp32 [H, S, S] of projected queries and keys, and projected values brought back, added up."""
    matrices = Projections.of(views, origin, CPU)
    q, k = (
        project(buffer_slice(2, 3 * len(views)).roll(i), m)
        for i, m in enumerate((matrices.query, matrices.key))
    )
    return (q @ k.mT)[0]


def test_only_the_relation_of_cameras_matters() -> None:
    """The world may be moved: by where its origin is said to be, or with all cameras in it."""
    views = Views.of(walk(compound_path(1)))
    here = torch.linalg.inv(views.w2c[5])
    expected = scores(views, here)
    away = torch.linalg.inv(Views.of(walk(compound_path(2) * 4)).w2c[-1])
    torch.testing.assert_close(scores(views, torch.eye(4).double()), expected, atol=1e-4, rtol=1e-4)
    away[:3, 3] += 1000.0
    far = Views(views.w2c @ away, views.focal, views.actions)
    torch.testing.assert_close(scores(far, torch.linalg.inv(far.w2c[5])), expected, atol=1e-5, rtol=1e-5)
    # Without an origin nearby, FP32 loses what a thousand units away differs.
    assert (scores(far, torch.eye(4).double()) - expected).abs().max() > 1e-3
