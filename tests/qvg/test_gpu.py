"""The same library on a CUDA device."""

from __future__ import annotations

import pytest
import torch

from qvg import (
    BF16,
    KIVI,
    PRESETS,
    QUAROT,
    QVG,
    QVG_MAX,
    QVG_PLUS,
    CacheGeometry,
    CachePolicy,
    KVCache,
    attend,
    build_codec,
)
from qvg.config import CodecConfig
from qvg.device import choose
from qvg.ops.attention import Partial, merge, partial_attention, partial_attention_reference
from qvg.ops.attention.names import AttentionName
from qvg.ops.eight_bit import supports as eight_bit_support
from qvg.rope import grid_rope

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

GEOMETRY = CacheGeometry(layers=1, heads=3, head_dim=128, tokens_per_frame=30)


@pytest.mark.parametrize("name", ["cuda-flash", "cudnn"])
def test_fused_attention_agrees_with_the_reference_and_merges(name: AttentionName) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    q = torch.randn(2, 3, 333, 128, device="cuda", generator=generator).bfloat16()
    k, v = torch.randn(2, 2, 3, 1000, 128, device="cuda", generator=generator).bfloat16()[..., 100:801, :]
    whole = partial_attention(q, k, v, name)
    expected = partial_attention_reference(q, k, v)
    torch.testing.assert_close(whole.out, expected.out, atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(whole.lse, expected.lse, atol=1e-2, rtol=1e-3)
    total, rest = (
        partial_attention(q, k[:, :, piece], v[:, :, piece], name) for piece in (slice(200), slice(200, None))
    )
    merged = merge(Partial(total.out.float(), total.lse), rest)
    torch.testing.assert_close(merged.out, expected.out.float(), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("codec", PRESETS.values(), ids=PRESETS)
def test_encoding_repeats_bit_for_bit(codec: CodecConfig) -> None:
    x = torch.randn(
        1, 3, 3000, 128, device="cuda", generator=torch.Generator("cuda").manual_seed(1)
    ).bfloat16()
    state = torch.cuda.get_rng_state()
    first = build_codec(codec).encode(x)
    for _ in range(3):
        again = build_codec(codec).encode(x)
        for name, part in first.parts.items():
            assert torch.equal(part.view(torch.uint8), again.parts[name].view(torch.uint8)), name
    assert torch.equal(torch.cuda.get_rng_state(), state)
    warm, warm_again = (build_codec(codec).encode(x, first) for _ in range(2))
    for name, part in warm.parts.items():
        assert torch.equal(part.view(torch.uint8), warm_again.parts[name].view(torch.uint8)), name


@pytest.mark.parametrize("codec", [BF16, QVG], ids=str)
def test_the_cache_on_a_gpu_agrees_with_the_cache_on_a_cpu(codec: CodecConfig) -> None:
    generator = torch.Generator().manual_seed(2)
    caches = [
        KVCache(GEOMETRY, codec, CachePolicy(every=2, sink=1), frames_per_block=3, device=device)
        for device in ("cpu", "cuda")
    ]
    prototypes = torch.randn(1, 3, 30, 128, generator=generator).repeat(1, 1, 3, 1)
    for _ in range(7):
        k, v = (prototypes + 0.1 * torch.randn(2, 1, 3, 90, 128, generator=generator)).bfloat16()
        for cache in caches:
            cache.layer(0).stage(k, v)
            cache.commit()
    q = torch.randn(1, 3, 50, 128, generator=generator)
    on_cpu, on_gpu = (attend(q.to(cache.device), cache.layer(0)).cpu() for cache in caches)
    assert (on_cpu - on_gpu).norm() / on_cpu.norm() < 0.02
    stats = caches[1].stats()
    assert stats.stored_bytes == caches[0].stats().stored_bytes
    assert min(stats.encode_ms, stats.read_ms) > 0


@pytest.mark.parametrize("codec", [BF16, QVG, QVG_PLUS, QVG_MAX, KIVI, QUAROT], ids=str)
def test_heads_in_two_streams_see_what_all_heads_see(
    codec: CodecConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rope = grid_rope(64, 5, 6, (22, 21, 21), device="cuda")
    geometry = CacheGeometry(layers=1, heads=5, head_dim=128, tokens_per_frame=30)
    cache = KVCache(geometry, codec, CachePolicy(every=2, recent=1), frames_per_block=3, device="cuda")
    generator = torch.Generator("cuda").manual_seed(2)
    for _ in range(8):
        k, v = torch.randn(2, 1, 5, 90, 128, device="cuda", generator=generator).bfloat16()
        cache.layer(0).stage(k, v)
        cache.commit()
    cache.layer(0).stage(k, v)
    q = torch.randn(1, 5, 77, 128, device="cuda", generator=generator).bfloat16()
    pieces = list(cache.layer(0).pieces(torch.float32))
    keys = torch.cat([rope(piece.k, piece.first_frame) for piece in pieces], dim=2)
    values = torch.cat([piece.v for piece in pieces], dim=2)
    expected = partial_attention_reference(q.float(), keys, values).out
    together = attend(q, cache.layer(0), rope)
    assert (together - expected).norm() < 0.01 * expected.norm()
    size = 2 * 270 * 128 * 2  # one head of the longest stretch: the blocks that are not encoded
    monkeypatch.setattr("qvg.attention.STREAM_BYTES", size)
    for _ in range(5):
        apart = attend(q, cache.layer(0), rope)
        assert (apart - expected).norm() < 0.01 * expected.norm()
    assert cache.scratch.nbytes == 2 * size
    elsewhere = attend(q, cache.layer(0), lambda k, first_frame: rope(k, first_frame))
    assert (elsewhere - expected).norm() < 0.01 * expected.norm()


def test_the_choice() -> None:
    choice = choose(torch.device("cuda", 0), 128)
    assert "measured here" in choice.reason
    assert choose(torch.device("cuda", 0), 130).attention == "math"


@pytest.mark.parametrize("codec", [QVG, QVG_MAX, KIVI], ids=str)
def test_eight_bit_attention_adds_little_to_the_error(codec: CodecConfig) -> None:
    if eight_bit_support(torch.device("cuda"), 128):
        pytest.skip("needs a GPU that multiplies 8-bit floats")
    rope = grid_rope(64, 5, 6, (22, 21, 21), device="cuda")
    geometry = CacheGeometry(layers=1, heads=5, head_dim=128, tokens_per_frame=30)
    outs = []
    for bits in (16, 8):
        policy = CachePolicy(every=2, attention_bits=bits)
        cache = KVCache(geometry, codec, policy, frames_per_block=3, device="cuda")
        generator = torch.Generator("cuda").manual_seed(2)
        for _ in range(9):
            k, v = torch.randn(2, 1, 5, 90, 128, device="cuda", generator=generator).bfloat16()
            cache.layer(0).stage(k, v)
            cache.commit()
        cache.layer(0).stage(k, v)
        q = torch.randn(1, 5, 77, 128, device="cuda", generator=generator).bfloat16()
        outs.append(attend(q, cache.layer(0), rope).float())
    assert 0 < (outs[1] - outs[0]).norm() < 0.08 * outs[0].norm()
