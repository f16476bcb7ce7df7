"""FP8 numbers, all 256 of them."""

import pytest
import torch

from qvg.ops.e4m3 import E4M3_MAX, from_e4m3, to_e4m3

BYTES = torch.arange(256, dtype=torch.uint8)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_byte_is_the_number_it_is_cast_to(dtype: torch.dtype):
    stored = BYTES.view(torch.float8_e4m3fn)
    wide = from_e4m3(stored, dtype)
    assert wide.dtype == dtype
    torch.testing.assert_close(wide, stored.to(dtype), rtol=0, atol=0, equal_nan=True)
    assert torch.equal(wide.signbit(), stored.to(dtype).signbit())
    assert torch.equal(from_e4m3(stored.view(16, 16).T[3:, ::2], dtype), wide.view(16, 16).T[3:, ::2])
    assert from_e4m3(stored[:0].view(2, 0), dtype).shape == (2, 0)


def test_what_is_too_large_saturates():
    wide = torch.tensor([1e30, -500.0, 448.0, 0.1, 0.0, float("inf")])
    assert from_e4m3(to_e4m3(wide), torch.float32).tolist() == [
        E4M3_MAX, -E4M3_MAX, 448.0, 0.1015625, 0.0, E4M3_MAX,
    ]  # fmt: skip
