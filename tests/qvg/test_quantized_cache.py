"""The cache with real codecs: what it reads, what it holds, what it forecasts."""

from __future__ import annotations

import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qvg import (
    BF16,
    KIVI,
    QUAROT,
    QVG,
    QVG_INT4,
    QVG_MAX,
    QVG_PLUS,
    CacheGeometry,
    CachePolicy,
    KVCache,
    attend,
    build_codec,
)
from qvg.config import CodecConfig, GroupwiseConfig, PRQConfig
from qvg.policy import cache_bytes

GEOMETRY = CacheGeometry(layers=2, heads=2, head_dim=64, tokens_per_frame=7)
FRAMES_PER_BLOCK = 3
BLOCK = 21
SMALL = replace(QVG, clusters=8)
CODECS = [
    BF16,
    SMALL,
    replace(QVG_INT4, clusters=8),
    PRQConfig(stages=2, clusters=256, group=16),
    replace(QVG_PLUS, clusters=8),
    GroupwiseConfig(group=16, key_axis="tokens"),  # a span of 42 tokens is not whole groups
    QUAROT,
]
POLICIES = [
    CachePolicy(every=2),
    CachePolicy(every=3, sink=1, recent=2),
    CachePolicy(every=2, sink=2, window=5),
    CachePolicy(every=1, recent=1, window=2),
]


def fill(cache: KVCache, blocks: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Commits `blocks` blocks, the same to every layer, and returns them."""
    generator = torch.Generator().manual_seed(seed)
    history = []
    for _ in range(blocks):
        k, v = torch.randn(
            2, cache.batch, GEOMETRY.heads, BLOCK, GEOMETRY.head_dim, generator=generator
        ).bfloat16()
        history.append((k, v))
        for index in range(GEOMETRY.layers):
            cache.layer(index).stage(k, v)
        cache.commit()
    return history


@pytest.mark.parametrize("codec", CODECS, ids=str)
@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_the_forecast_is_what_the_cache_reports(codec: CodecConfig, policy: CachePolicy) -> None:
    cache = KVCache(GEOMETRY, codec, policy, frames_per_block=FRAMES_PER_BLOCK, batch=2)
    for blocks in range(1, 10):
        fill(cache, 1, seed=blocks)
        stats = cache.stats()
        forecast = cache_bytes(GEOMETRY, codec, policy, blocks, FRAMES_PER_BLOCK, batch=2)
        assert (stats.stored_bytes, stats.bf16_bytes) == forecast
        assert sum(stats.parts.values()) == stats.stored_bytes


def storage_bytes(value: object, seen: set[int]) -> int:
    """Bytes of every tensor storage reachable from `value`, each counted once."""
    if id(value) in seen:
        return 0
    seen.add(id(value))
    if isinstance(value, Tensor):
        storage = value.untyped_storage()
        key = storage.data_ptr()
        if key in seen:
            return 0
        seen.add(key)
        return storage.nbytes()
    if isinstance(value, dict):
        return sum(storage_bytes(item, seen) for item in value.values())
    if isinstance(value, tuple | list):
        return sum(storage_bytes(item, seen) for item in value)
    if type(value).__module__.startswith("qvg"):
        names = [*getattr(value, "__dict__", ()), *getattr(type(value), "__slots__", ())]
        return sum(storage_bytes(getattr(value, name), seen) for name in names)
    return 0


@pytest.mark.parametrize("codec", CODECS, ids=str)
@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_the_reported_bytes_are_the_bytes_held(codec: CodecConfig, policy: CachePolicy) -> None:
    cache = KVCache(GEOMETRY, codec, policy, frames_per_block=FRAMES_PER_BLOCK)
    for blocks in range(1, 9):
        fill(cache, 1, seed=blocks)
        stats = cache.stats()
        assert storage_bytes(cache, set()) == stats.stored_bytes + stats.scratch_bytes


def test_attention_is_dense_attention_over_decoded_spans() -> None:
    policy = CachePolicy(every=2, sink=1, recent=1)
    cache = KVCache(GEOMETRY, SMALL, policy, frames_per_block=FRAMES_PER_BLOCK)
    history = fill(cache, 8)
    k, v, q = torch.randn(3, 1, 2, BLOCK, 64, generator=torch.Generator().manual_seed(1))
    layer = cache.layer(1)
    layer.stage(k, v)
    decoded = []
    for tensor, blocks, staged in zip(("k", "v"), zip(*history, strict=True), (k, v), strict=True):
        codec, payload, spans = build_codec(SMALL, tensor), None, []
        for first in (1, 3, 5):
            payload = codec.encode(torch.cat(blocks[first : first + 2], dim=2), payload)
            spans.append(codec.decode(payload, torch.float32))
        full_precision = [x.bfloat16().float() for x in (blocks[0], blocks[7], staged)]
        decoded.append(torch.cat([*spans, *full_precision], dim=2))
    expected = (q @ decoded[0].mT / 8).softmax(-1) @ decoded[1]
    tolerance = 1e-5 if cache.choice.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(attend(q, layer), expected, atol=tolerance, rtol=tolerance)


def test_two_runs_hold_the_same_bits() -> None:
    def run() -> Tensor:
        cache = KVCache(GEOMETRY, SMALL, CachePolicy(every=2), frames_per_block=FRAMES_PER_BLOCK)
        fill(cache, 6)
        return attend(torch.ones(1, 2, 4, 64), cache.layer(0))

    state = torch.get_rng_state()
    first = run()
    torch.manual_seed(123)
    assert torch.equal(first, run())
    torch.set_rng_state(state)


def test_a_decoded_span_is_let_go_before_the_next_one() -> None:
    cache = KVCache(GEOMETRY, SMALL, CachePolicy(every=1), frames_per_block=FRAMES_PER_BLOCK)
    fill(cache, 5)
    seen: list[weakref.ref[Tensor]] = []

    def rotate(k: Tensor, first_frame: int) -> Tensor:
        assert first_frame == len(seen) * FRAMES_PER_BLOCK
        assert not any(tensor() is not None for tensor in seen)
        seen.append(weakref.ref(k))
        return k + 1

    attend(torch.ones(1, 2, 4, 64), cache.layer(0), rotate)
    assert len(seen) == 5


def test_the_result_has_the_type_of_the_queries() -> None:
    cache = KVCache(GEOMETRY, SMALL, CachePolicy(every=1), frames_per_block=FRAMES_PER_BLOCK)
    fill(cache, 3)
    q = torch.randn(1, 2, 5, 64, generator=torch.Generator().manual_seed(2))
    for dtype in (torch.float32, torch.bfloat16):
        assert attend(q.to(dtype), cache.layer(0)).dtype == dtype
    with pytest.raises(ValueError, match="q is"):
        attend(q[:, :1], cache.layer(0))


def test_a_cache_that_cannot_encode_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="head_dim=64 is not whole groups of 48"):
        KVCache(GEOMETRY, PRQConfig(group=48), frames_per_block=1)
    with pytest.raises(ValueError, match="frames_per_block=0"):
        KVCache(GEOMETRY, frames_per_block=0)


def test_the_clocks_run_and_stop_at_reset() -> None:
    cache = KVCache(GEOMETRY, SMALL, CachePolicy(every=1), frames_per_block=FRAMES_PER_BLOCK)
    fill(cache, 2)
    attend(torch.ones(1, 2, 4, 64), cache.layer(0))
    stats = cache.stats()
    assert stats.encode_ms > 0
    assert stats.read_ms > 0
    cache.reset()
    assert (cache.stats().encode_ms, cache.stats().read_ms) == (0, 0)


@pytest.mark.parametrize("codec", [QVG, QVG_MAX, KIVI, QUAROT, BF16], ids=str)
def test_layers_encoded_together_are_as_if_encoded_alone(
    codec: CodecConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same launches or one after another, and with more than one item in a batch."""
    geometry = CacheGeometry(layers=5, heads=2, head_dim=128, tokens_per_frame=20)
    caches = []
    for together in (1, 4, 64):
        monkeypatch.setattr("qvg.cache.HEADS_TOGETHER", together)
        cache = KVCache(geometry, codec, CachePolicy(every=2, sink=1, recent=1), frames_per_block=2, batch=2)
        generator = torch.Generator().manual_seed(5)
        for _ in range(8):
            for index in range(geometry.layers):
                k, v = torch.randn(2, 2, 2, 40, 128, generator=generator)
                cache.layer(index).stage(k, v)
            cache.commit()
        caches.append(cache)
    first, *others = caches
    assert first.stats().spans == 3
    for other in others:
        assert other.stats().parts == first.stats().parts
        for index in range(geometry.layers):
            pairs = zip(
                first.layer(index).pieces(torch.float32),
                other.layer(index).pieces(torch.float32),
                strict=True,
            )
            for expected, found in pairs:
                assert (found.k - expected.k).norm() <= 1e-3 * expected.k.norm()
                assert (found.v - expected.v).norm() <= 1e-3 * expected.v.norm()
