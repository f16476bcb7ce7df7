"""Quantization with zero points, bit for bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qvg.ops.affine import dequantize_affine, quantize_affine
from qvg.ops.pack import unpack


def round_trip(x: Tensor, group: int, bits, axis, dtype: torch.dtype = torch.float32) -> Tensor:
    return dequantize_affine(*quantize_affine(x, group, bits, axis), group, bits, axis, dtype)


def test_groups_by_hand() -> None:
    # A third of 6.4 is 2.13, and that above -6 is -3.87: both are stored as the nearest E4M3 number.
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0, -6.0, 0.0, 0.4, -1.0]])
    codes, scales, zeros = quantize_affine(x, 4, 2, "channels")
    assert (scales.tolist(), zeros.tolist()) == ([[1.0, 2.25]], [[2.0, -3.75]])
    assert unpack(codes, "int2").tolist() == [[-1, 0, 1, 2, -1, 2, 2, 1]]
    codes, scales, zeros = quantize_affine(torch.arange(16.0).unsqueeze(0), 16, 4, "channels")
    assert (scales.tolist(), zeros.tolist()) == ([[1.0]], [[7.0]])
    assert unpack(codes, "int4").tolist() == [list(range(-7, 9))]


def test_groups_along_tokens_are_groups_of_the_transposed() -> None:
    x = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0))
    for bits in (2, 4):
        by_channel = round_trip(x.mT.contiguous(), 16, bits, "channels").mT
        assert torch.equal(round_trip(x, 16, bits, "tokens"), by_channel)


@pytest.mark.parametrize("tokens", [1, 63, 65, 130])
def test_the_last_group_may_be_of_fewer_tokens(tokens: int) -> None:
    x = torch.randn(tokens, 8, generator=torch.Generator().manual_seed(tokens))
    codes, scales, zeros = quantize_affine(x, 64, 2, "tokens")
    assert codes.shape == (tokens, 2)
    assert scales.shape == zeros.shape == (-(-tokens // 64), 8)
    whole = tokens // 64 * 64
    decoded = round_trip(x, 64, 2, "tokens")
    assert torch.equal(decoded[:whole], round_trip(x[:whole], 64, 2, "tokens") if whole else decoded[:0])
    assert torch.equal(
        decoded[whole:], round_trip(x[whole:], 64, 2, "tokens") if tokens > whole else x[whole:]
    )


@pytest.mark.parametrize("axis", ["channels", "tokens"])
@pytest.mark.parametrize("bits", [2, 4])
def test_no_value_is_off_by_more_than_the_rounded_scale_allows(bits, axis) -> None:
    x = torch.randn(128, 128, generator=torch.Generator().manual_seed(1))
    step = 8 / (2**bits - 1)  # the range of a group is less than 8
    assert (round_trip(x, 64, bits, axis) - x).abs().max() < step


def test_values_far_from_zero_in_a_narrow_range() -> None:
    # 100 lies between the E4M3 numbers 96 and 104: without wider steps all would decode to 96.7 or so.
    x = 100 + torch.linspace(-0.5, 0.5, 64).unsqueeze(0)
    for bits in (2, 4):
        assert (round_trip(x, 64, bits, "channels") - x).abs().max() <= 1
    constant = torch.full((1, 64), 100.0)
    assert torch.equal(round_trip(constant, 64, 2, "channels"), constant)


def test_edges() -> None:
    ends = torch.tensor([0.0, 2.0**-12, 448.0, 1344.0, 1e6, -1e6, 2.0**48])
    x = ends.unsqueeze(1).repeat(1, 4)
    assert round_trip(x, 4, 2, "channels")[:, 0].tolist() == [0.0, 0.0, 448.0, 1344.0, 1344.0, -896.0, 1344.0]
    mixed = torch.stack([ends, -ends], dim=1)
    for dtype in (torch.float32, torch.bfloat16):
        assert round_trip(mixed, 2, 4, "channels", dtype).isfinite().all()
