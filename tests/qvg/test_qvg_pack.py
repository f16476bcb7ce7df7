"""Packing and group quantisation, bit for bit."""

from __future__ import annotations

import pytest
import torch

from qvg.ops.groups import quantise_groups
from qvg.ops.pack import pack, unpack
from qvg.ops.pack.reference import LLOYD_MAX


@pytest.mark.parametrize("tokens", [1, 63, 1560])
@pytest.mark.parametrize("bits", [2, 4])
def test_unpack_undoes_pack(bits, tokens: int) -> None:
    top = 2 ** (bits - 1) - 1
    levels = torch.randint(-top, top + 1, (2, tokens, 128), generator=torch.Generator().manual_seed(0))
    packed = pack(levels, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (2, tokens, 128 * bits // 8)
    for dtype in (torch.float32, torch.bfloat16):
        assert torch.equal(unpack(packed, bits, dtype), levels.to(dtype))


def test_bytes_by_hand() -> None:
    assert pack(torch.tensor([1, -1, 0, 1]), 2).tolist() == [0b10_01_00_10]
    assert pack(torch.tensor([-7, 7, 0, 1]), 4).tolist() == [0xE0, 0x87]


def test_groups_by_hand() -> None:
    x = torch.tensor([[0.4, -1.0, 0.6, 0.0, 0.25, 0.2, -0.1, 0.0]])
    codes, scales = quantise_groups(x, group=4, bits=2)
    assert scales.float().tolist() == [[1.0, 0.25]]
    assert unpack(codes, 2).tolist() == [[0, -1, 1, 0, 1, 1, 0, 0]]
    codes, scales = quantise_groups(x * 7, group=8, bits=4)
    assert scales.float().tolist() == [[1.0]]
    assert unpack(codes, 4).tolist() == [[3, -7, 4, 0, 2, 1, -1, 0]]


def test_codes_suit_the_scale_that_is_stored() -> None:
    # 1.1 is not an E4M3 number: it is stored as 1.125, of which 0.56 is less than half.
    codes, scales = quantise_groups(torch.tensor([[1.1, 0.56, 0.57, 0.0]]), group=4, bits=2)
    assert scales.item() == 1.125
    assert unpack(codes, 2).tolist() == [[1, 0, 1, 0]]


@pytest.mark.parametrize("bits", [2, 4])
def test_edges_of_the_scale(bits) -> None:
    top = 2 ** (bits - 1) - 1
    x = torch.tensor([0.0, 2.0**-12, 2.0**-9 * top, 448.0 * top, 1e6, 2.0**48]).unsqueeze(1).repeat(1, 4)
    codes, scales = quantise_groups(x, group=4, bits=bits)
    decoded = (unpack(codes, bits) * scales.float())[:, 0].tolist()
    assert decoded == [0.0, 0.0, 2.0**-9 * top, 448.0 * top, 448.0 * top, 448.0 * top]


INNER, OUTER = LLOYD_MAX


def test_four_levels_by_hand() -> None:
    x = torch.tensor([[1.5, -1.5, 0.5, -0.5, 1.5, -1.5, 0.5, 0.0]])
    codes, scales = quantise_groups(x, group=8, bits=2, code="lloyd-max")
    # Four sizes at the outer level, four at the inner one: the best scale is 9.73 / 9.92; the root mean
    # square, 1.104, is nearest to 1.125.
    assert scales.item() == 1.0
    expected = [OUTER, -OUTER, INNER, -INNER, OUTER, -OUTER, INNER, INNER]
    assert unpack(codes, 2, code="lloyd-max").tolist() == [expected]
    assert torch.equal(unpack(codes, 2, torch.bfloat16, "lloyd-max").float(), torch.tensor([expected]))


def test_the_scale_is_the_best_fp8_number() -> None:
    x = torch.randn(200, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(-1, 2, 200)[:, None]
    codes, scales = quantise_groups(x, group=64, bits=2, code="lloyd-max")
    every = torch.arange(0x7F, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    levels = torch.tensor([-OUTER, -INNER, INNER, OUTER])

    def error(scale: torch.Tensor) -> torch.Tensor:
        nearest = (x.unsqueeze(-1) - levels * scale.view(-1, 1, 1)).abs().amin(dim=-1)
        return nearest.square().sum(dim=-1)

    best = torch.stack([error(scale.expand(200)) for scale in every]).amin(dim=0)
    decoded = unpack(codes, 2, code="lloyd-max") * scales.float()
    torch.testing.assert_close((decoded - x).square().sum(dim=-1), error(scales.float()[:, 0]))
    assert (error(scales.float()[:, 0]) < 1.001 * best).float().mean() > 0.98


def test_edges_of_the_best_scale() -> None:
    x = torch.tensor([0.0, 2.0**-12, 448.0 * OUTER, 1e6, 2.0**48]).unsqueeze(1).repeat(1, 4)
    codes, scales = quantise_groups(x, group=4, bits=2, code="lloyd-max")
    decoded = (unpack(codes, 2, code="lloyd-max") * scales.float())[:, 0].tolist()
    assert decoded == [0.0, 0.0, 448.0 * OUTER, 448.0 * OUTER, 448.0 * OUTER]
