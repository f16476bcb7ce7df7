"""Turning keys and values by position and camera: the kernel beside plain torch, and what must not matter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from backends.worldplay.cameras import Projections, project, project_reference, rotate_and_project
from backends.worldplay.poses import Views
from qvg.ops import kernels as dispatch
from qvg.rope import Rope, grid_rope
from tests.backends.worldplay.tiny import compound_path, walk
from tests.qvg.interpreter import mend

CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 4e-2}


@pytest.fixture
def kernels() -> Iterator[None]:
    """Kernels run on the device of the tests, interpreted on a CPU, and new memory is poisoned."""
    pytest.importorskip("triton", reason="Triton is not installed")
    empty = torch.empty

    def poisoned(*shape: Any, **options: Any) -> Tensor:
        return empty(*shape, **options).fill_(torch.nan)

    with pytest.MonkeyPatch.context() as patch:
        if DEVICE == CPU:
            mend(patch)
        patch.setattr(dispatch, "DEVICES", (DEVICE.type,))
        patch.setattr(torch, "empty", poisoned)
        yield


def turned(frames: int, tokens: int) -> tuple[Rope, Tensor]:
    """Tables for frames of 1 x `tokens`, and the matrices of keys."""
    views = Views.of(walk(compound_path(3)))
    matrices = Projections.of(views, torch.eye(4, dtype=torch.float64), DEVICE).key
    return grid_rope(40, 1, tokens, (12, 10, 10), device=DEVICE), matrices[:frames]


def buffer_slice(heads: int, tokens: int, batch: int = 1) -> Tensor:
    """fp32 [B, H, S, 64], part of something longer and in another order, as cache and model give it."""
    generator = torch.Generator().manual_seed(tokens)
    whole = torch.randn(batch, tokens + 5, heads, 64, generator=generator).to(DEVICE).transpose(1, 2)
    return whole[:, :, 3 : 3 + tokens]


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("frames", "tokens"), [(1, 1), (3, 21), (4, 33)])
def test_the_kernel_is_plain_torch(frames: int, tokens: int, dtype: torch.dtype) -> None:
    rope, matrices = turned(frames, tokens)
    x = buffer_slice(3, frames * tokens, batch=2).to(dtype)
    rotated, projected = rotate_and_project(x, rope, 7, matrices)
    near = {"atol": TOLERANCE[dtype], "rtol": TOLERANCE[dtype]}
    torch.testing.assert_close(rotated, rope(x, 7), **near)
    torch.testing.assert_close(projected, project_reference(x, matrices), **near)
    assert torch.equal(project(x, matrices), projected)
    assert rotated.is_contiguous() and projected.is_contiguous()
    # Frames do differ, or the test would not notice them mixed up.
    if frames > 1:
        assert (project_reference(x, matrices.flip(0)) - projected).abs().max() > 0.1


@pytest.mark.usefixtures("kernels")
def test_a_real_frame_of_880_tokens() -> None:
    rope, matrices = turned(2, 880)
    x = buffer_slice(1, 2 * 880)
    rotated, projected = rotate_and_project(x, rope, 3, matrices)
    torch.testing.assert_close(rotated, rope(x, 3), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(projected, project_reference(x, matrices), atol=1e-4, rtol=1e-4)


def test_positions_beyond_the_table_are_refused() -> None:
    rope, matrices = turned(3, 5)
    with pytest.raises(ValueError, match="frames 38 to 40 are not all among the 40"):
        rotate_and_project(buffer_slice(2, 15), rope, 38, matrices)


def scores(views: Views, origin: Tensor) -> Tensor:
    """fp32 [H, S, S] of projected queries and keys, and projected values brought back, added up."""
    matrices = Projections.of(views, origin, DEVICE)
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
