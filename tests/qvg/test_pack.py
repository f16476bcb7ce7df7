"""Packing and group quantization, bit for bit."""

from __future__ import annotations

import pytest
import torch

from qvg.ops.groups import quantize_groups
from qvg.ops.pack import pack, unpack
from qvg.ops.pack.reference import LEVELS, LLOYD_MAX, Code

INNER, OUTER = LLOYD_MAX


@pytest.mark.parametrize("tokens", [1, 63, 1560, 1561])
@pytest.mark.parametrize("code", LEVELS)
def test_unpack_undoes_pack(code: Code, tokens: int) -> None:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(len(LEVELS[code]), (2, tokens, 128), generator=generator)
    packed = pack(numbers, code)
    assert packed.dtype == torch.uint8
    values = {"int2": 4, "int4": 2, "sign": 8, "quad": 4}
    expected = (2, -(-tokens // 5), 128) if code == "trit" else (2, tokens, 128 // values[code])
    assert packed.shape == expected
    for dtype in (torch.float32, torch.bfloat16):
        levels = torch.tensor(LEVELS[code], dtype=dtype)[numbers]
        assert torch.equal(unpack(packed, code, dtype, tokens=tokens), levels)
        assert torch.equal(unpack(packed, code, dtype, tokens // 2, tokens), levels[:, tokens // 2 :])


def test_bytes_by_hand() -> None:
    assert pack(torch.tensor([[2, 0, 1, 2]]), "int2").tolist() == [[0b10_01_00_10]]
    assert pack(torch.tensor([[0, 14, 7, 8]]), "int4").tolist() == [[0xE0, 0x87]]
    assert pack(torch.tensor([[1, 0, 0, 0, 0, 0, 1, 1]]), "sign").tolist() == [[0b1100_0001]]
    assert pack(torch.tensor([[2], [1], [0], [0], [2], [1]]), "trit").tolist() == [[2 + 3 + 2 * 81], [1]]


def test_groups_by_hand() -> None:
    x = torch.tensor([[0.4, -1.0, 0.6, 0.0, 0.25, 0.2, -0.1, 0.0]])
    codes, scales = quantize_groups(x, group=4, code="int2")
    assert scales.float().tolist() == [[1.0, 0.25]]
    assert unpack(codes, "int2").tolist() == [[0, -1, 1, 0, 1, 1, 0, 0]]
    codes, scales = quantize_groups(x * 7, group=8, code="int4")
    assert scales.float().tolist() == [[1.0]]
    assert unpack(codes, "int4").tolist() == [[3, -7, 4, 0, 2, 1, -1, 0]]


def test_codes_suit_the_scale_that_is_stored() -> None:
    # 1.1 is not an E4M3 number: it is stored as 1.125, of which 0.56 is less than half.
    codes, scales = quantize_groups(torch.tensor([[1.1, 0.56, 0.57, 0.0]]), group=4, code="int2")
    assert scales.item() == 1.125
    assert unpack(codes, "int2").tolist() == [[1, 0, 1, 0]]


@pytest.mark.parametrize(("code", "top"), [("int2", 1), ("int4", 7)])
def test_edges_of_the_scale(code: Code, top: int) -> None:
    x = torch.tensor([0.0, 2.0**-12, 2.0**-9 * top, 448.0 * top, 1e6, 2.0**48]).unsqueeze(1).repeat(1, 4)
    codes, scales = quantize_groups(x, group=4, code=code)
    decoded = (unpack(codes, code) * scales.float())[:, 0].tolist()
    assert decoded == [0.0, 0.0, 2.0**-9 * top, 448.0 * top, 448.0 * top, 448.0 * top]


def test_unbiased_groups_by_hand() -> None:
    x = torch.tensor([[3.0, -3.0, 1.0, -1.0, 3.0, -3.0, 1.0, -1.0]])
    # Squares add up to 40, the root mean square is 2.236; sizes to 16.
    found = {code: quantize_groups(x, group=8, code=code) for code in ("sign", "trit", "quad")}
    levels = {code: unpack(codes, code, tokens=1)[0].tolist() for code, (codes, _) in found.items()}
    scales = {code: scales.item() for code, (_, scales) in found.items()}
    assert (scales["sign"], levels["sign"]) == (2.5, [1, -1, 1, -1] * 2)
    assert (scales["trit"], levels["trit"]) == (3.25, [1, -1, 0, 0] * 2)  # 40 / 12 = 3.33
    # 40 / (12 * 1.508 + 4 * 0.453) = 2.01
    assert (scales["quad"], levels["quad"]) == (2.0, [OUTER, -OUTER, INNER, -INNER] * 2)


@pytest.mark.parametrize("code", ["sign", "trit", "quad"])
def test_a_decoded_group_times_the_group_is_its_square(code: Code) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(5000, 64, generator=generator) * torch.logspace(-1, 2, 5000)[:, None]
    codes, scales = quantize_groups(x, group=64, code=code)
    decoded = unpack(codes, code, tokens=5000) * scales.float()
    ratio = (decoded * x).sum(dim=-1) / x.square().sum(dim=-1)
    # E4M3 rounds by up to a sixteenth, up as often as down.
    assert ratio.sub(1).abs().max() < 0.0626
    assert ratio.mean().item() == pytest.approx(1, abs=2e-3)
    # What Max's table II leaves of a Gaussian's variance, times 1 / (1 - what it leaves).
    least = {"sign": 0.3634, "trit": 0.1902, "quad": 0.1175}[code]
    error = ((decoded - x).square().sum(dim=-1) / x.square().sum(dim=-1)).mean().item()
    assert error == pytest.approx(least / (1 - least), rel=0.06)


@pytest.mark.parametrize("code", ["sign", "trit", "quad"])
def test_edges_of_the_unbiased_scale(code: Code) -> None:
    x = torch.tensor([0.0, 2.0**-14, 1e6, 2.0**48]).unsqueeze(1).repeat(1, 8)
    codes, scales = quantize_groups(x, group=8, code=code)
    top = LEVELS[code][-1]
    decoded = (unpack(codes, code, tokens=4) * scales.float())[:, 0].tolist()
    assert decoded == [0.0, 0.0, 448.0 * top, 448.0 * top]
