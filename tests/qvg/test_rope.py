"""Rotary positions against complex multiplication in FP64, and what a rotation must keep."""

from __future__ import annotations

import pytest
import torch

from qvg.rope import grid_rope

FRAMES, ROWS, COLUMNS, PAIRS = 7, 3, 5, (6, 5, 5)


def complex_rotation(x: torch.Tensor, first_frame: int) -> torch.Tensor:
    """[B, H, S, D] token by token from the angles of its frame, row and column."""
    frequencies = [10_000.0 ** (-torch.arange(n, dtype=torch.float64) / n) for n in PAIRS]
    out = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    for token in range(x.shape[2]):
        frame, place = divmod(token, ROWS * COLUMNS)
        where = (first_frame + frame, *divmod(place, COLUMNS))
        angle = torch.cat([at * f for at, f in zip(where, frequencies, strict=True)])
        out[:, :, token] *= torch.polar(torch.ones_like(angle), angle)
    return torch.view_as_real(out).flatten(-2)


@pytest.mark.parametrize("first_frame", [0, 4])
def test_it_is_the_complex_rotation_of_neighbouring_channels(first_frame: int) -> None:
    x = torch.randn(2, 3, 2 * ROWS * COLUMNS, 32, generator=torch.Generator().manual_seed(0))
    rope = grid_rope(FRAMES, ROWS, COLUMNS, PAIRS)
    expected = complex_rotation(x, first_frame).float()
    torch.testing.assert_close(rope(x, first_frame), expected)
    assert rope(x.bfloat16(), first_frame).dtype == torch.bfloat16


def test_scores_depend_on_how_far_apart_frames_are_only() -> None:
    q, k = torch.randn(2, 1, 1, ROWS * COLUMNS, 32, generator=torch.Generator().manual_seed(1))
    rope = grid_rope(FRAMES, ROWS, COLUMNS, PAIRS)
    near = rope(q, 3) @ rope(k, 1).mT
    torch.testing.assert_close(near, rope(q, 5) @ rope(k, 3).mT, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(near, rope(q, 5) @ rope(k, 4).mT, atol=1e-2)


def test_what_cannot_be_rotated_is_named() -> None:
    rope = grid_rope(FRAMES, ROWS, COLUMNS, PAIRS)
    with pytest.raises(ValueError, match="16 tokens are not whole frames of 15"):
        rope(torch.zeros(1, 1, 16, 32), 0)
    with pytest.raises(ValueError, match="frames 6 to 7 are not all among the 7"):
        rope(torch.zeros(1, 1, 30, 32), 6)
    with pytest.raises(ValueError, match="D=16, but the tables rotate 32"):
        rope(torch.zeros(1, 1, 15, 16), 0)
