"""Partial attention: each implementation against the reference, and the merge."""

from __future__ import annotations

import pytest
import torch

from qvg.device import choose
from qvg.ops.attention import Partial, merge, partial_attention, partial_attention_reference
from qvg.ops.attention import reference as attention_reference

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def qkv(tokens: int, dtype: torch.dtype, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn(2, 3, 11, 64, generator=generator).to(dtype)
    # A slice of a longer buffer, as the cache passes it.
    k, v = torch.randn(2, 2, 3, tokens + 9, 64, generator=generator).to(dtype)[..., 4 : tokens + 4, :]
    return q, k, v


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("tokens", [1, 63, 700])
def test_fused_cpu_attention_agrees_with_the_reference(dtype: torch.dtype, tokens: int) -> None:
    q, k, v = qkv(tokens, dtype)
    out, lse = partial_attention(q, k, v, "cpu-flash")
    expected = partial_attention_reference(q, k, v)
    assert (out.dtype, lse.dtype) == (dtype, torch.float32)
    torch.testing.assert_close(out, expected.out, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])
    torch.testing.assert_close(lse, expected.lse, atol=1e-3, rtol=1e-3)


def test_the_reference_is_attention_and_its_chunks_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = qkv(40, torch.float32)
    whole = partial_attention_reference(q, k, v)
    torch.testing.assert_close(whole.out, torch.nn.functional.scaled_dot_product_attention(q, k, v))
    torch.testing.assert_close(whole.lse, (q @ k.mT / 8).logsumexp(-1))
    monkeypatch.setattr(attention_reference, "SCORES_PER_CHUNK", 2 * 3 * 40 * 4)
    for part, expected in zip(partial_attention_reference(q, k, v), whole, strict=True):
        torch.testing.assert_close(part, expected)


@pytest.mark.parametrize("shift", [0.0, 80.0])
def test_merged_pieces_are_one_attention(shift: float) -> None:
    q, k, v = qkv(50, torch.float32)
    k = torch.cat([k[:, :, :20], k[:, :, 20:] + shift * q[:, :, :1]], dim=2)
    first = partial_attention(q, k[:, :, :20], v[:, :, :20], "math")
    second = partial_attention(q, k[:, :, 20:], v[:, :, 20:], "math")
    expected = partial_attention_reference(q, k, v)
    both = merge(Partial(first.out.clone(), first.lse), second)
    torch.testing.assert_close(both.out, expected.out)
    torch.testing.assert_close(both.lse, expected.lse)
    other_way = merge(Partial(second.out.clone(), second.lse), first)
    torch.testing.assert_close(other_way.out, expected.out)


def test_the_cpu_choice_says_why() -> None:
    choice = choose(torch.device("cpu"), 128)
    assert choice.attention == "cpu-flash"
    assert choice.dtype in (torch.float32, torch.bfloat16)
    assert "CPU" in choice.reason
