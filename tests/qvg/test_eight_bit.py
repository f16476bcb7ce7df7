"""8-bit attention against plain torch: under Triton's interpreter on a CPU, as it is on a GPU."""

from __future__ import annotations

import pytest
import torch

from qvg import BF16, QVG, CacheGeometry, CachePolicy, KVCache
from qvg.ops.attention import partial_attention_reference
from qvg.ops.eight_bit import eight_bit_attention, query, supports

cuda = torch.cuda.is_available()
device = torch.device("cuda" if cuda else "cpu")
pytestmark = pytest.mark.skipif(
    cuda and supports(device, 128) is not None, reason="needs a GPU that multiplies 8-bit floats"
)


@pytest.mark.parametrize(
    ("queries", "keys", "head_dim"), [(70, 300, 128), (64, 128, 64), (1, 1, 128), (65, 257, 64)]
)
def test_close_to_plain_torch(queries: int, keys: int, head_dim: int) -> None:
    generator = torch.Generator(device).manual_seed(0)
    q, k, v = (
        torch.randn(2, 3, count, head_dim, device=device, generator=generator).bfloat16()
        for count in (queries, keys, keys)
    )
    k[:, :, :, 5] += 12  # one channel is far out, as in keys of real models
    v += 3 * torch.arange(3, device=device).view(3, 1, 1)
    expected = partial_attention_reference(q.float(), k.float(), v.float())
    found = eight_bit_attention(query(q), k, v)
    assert found.out.shape == q.shape and found.lse.shape == q.shape[:3]
    assert (found.out - expected.out).norm() < 0.05 * expected.out.norm()
    assert (found.lse - expected.lse).abs().max() < 0.3
    assert (found.lse - expected.lse).abs().mean() < 0.06


def test_every_key_brings_its_own_value() -> None:
    """Each query attends to one key only: what comes back is that key's value, rounded to 8 bits."""
    keys, head_dim = 200, 128
    generator = torch.Generator(device).manual_seed(1)
    k = torch.nn.functional.normalize(
        torch.randn(1, 1, keys, head_dim, device=device, generator=generator), dim=-1
    )
    v = torch.randn(1, 1, keys, head_dim, device=device, generator=generator).bfloat16()
    found = eight_bit_attention(query(2000 * k.bfloat16()), k.bfloat16(), v).out.float()
    error = (found - v.float()).square().sum(-1).sqrt() / v.float().square().sum(-1).sqrt()
    assert error.max() < 0.15  # half of that on a GPU: the interpreter cuts off instead of rounding


def test_parts_of_larger_tensors_and_nothing_beyond_them() -> None:
    """Strides are followed, and memory after the last key is not looked at."""
    whole = torch.full((2, 5, 400, 128), float("nan"), device=device, dtype=torch.bfloat16)
    generator = torch.Generator(device).manual_seed(2)
    whole[:, 1:4, :170] = torch.randn(2, 3, 170, 128, device=device, generator=generator).bfloat16()
    part = whole[:, 1:4, :170]
    q = torch.randn(2, 3, 33, 128, device=device, generator=generator).bfloat16()
    found, packed = (eight_bit_attention(query(q), x, x) for x in (part, part.contiguous()))
    assert torch.equal(found.out, packed.out) and torch.equal(found.lse, packed.lse)
    assert found.out.isfinite().all()


@pytest.mark.gpu
@pytest.mark.skipif(not cuda, reason="needs a CUDA device")
def test_what_all_values_share_survives_a_long_history() -> None:
    generator = torch.Generator(device).manual_seed(3)
    q, k, v = (
        torch.randn(1, 2, count, 128, device=device, generator=generator).bfloat16()
        for count in (256, 200_000, 200_000)
    )
    found = eight_bit_attention(query(q), k, v + 1).out.float()
    assert (found.mean() - 1).abs() < 0.005


def test_where_it_does_not_run_the_reason_is_told() -> None:
    assert "not 96" in (supports(device, 96) or "")
    if not cuda:
        assert "compute capability 9.0" in (supports(device, 128) or "")


def test_where_it_cannot_be_it_is_refused_and_bf16_never_asks_for_it() -> None:
    geometry, policy = CacheGeometry(1, 1, 96, 4), CachePolicy(attention_bits=8)
    with pytest.raises(
        ValueError, match=r"^attention_bits=8: .* for heads of 64 or 128 .*, not 96. Set it to 16.$"
    ):
        KVCache(geometry, QVG, policy, frames_per_block=1, device=device)
    assert not KVCache(geometry, BF16, policy, frames_per_block=1, device=device).eight_bit
    with pytest.raises(ValueError, match="needs an NVIDIA GPU"):
        KVCache(CacheGeometry(1, 1, 64, 4), QVG, policy, frames_per_block=1, device="cpu")
