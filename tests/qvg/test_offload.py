"""Spans in the host's memory: read as if they were on the device, counted apart, and let go. On a CPU."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from qvg import BF16, KIVI, QUAROT, QVG, QVG_MAX, QVG_PRO, CacheGeometry, CachePolicy, KVCache, attend
from qvg.codecs import build_codec
from qvg.config import CodecConfig, with_clusters
from qvg.offload import ALIGN, HostMemory, HostSpan, Offload
from qvg.policy import cache_bytes, host_bytes

HEADS, TOKENS_PER_FRAME, FRAMES_PER_BLOCK = 3, 7, 3
GEOMETRY = CacheGeometry(layers=2, heads=HEADS, head_dim=64, tokens_per_frame=TOKENS_PER_FRAME)
BLOCK = TOKENS_PER_FRAME * FRAMES_PER_BLOCK
SMALL = replace(QVG, clusters=8, iterations=1)
CODECS = [
    BF16,
    SMALL,
    replace(QVG_PRO, stages=2, clusters=5, iterations=1),
    with_clusters(QVG_MAX, 4),
    replace(KIVI, group=16),
    QUAROT,
]
POLICIES = [
    CachePolicy(every=1),
    CachePolicy(every=2, sink=1, recent=1),
    CachePolicy(every=2, sink=1, window=5),
    CachePolicy(every=3, window=4),
]


def budget(codec: CodecConfig, policy: CachePolicy, spans: float, batch: int = 1) -> CachePolicy:
    """`policy` with room for so many spans."""
    shape = (batch, HEADS, policy.every * BLOCK, GEOMETRY.head_dim)
    span = codec.stored_bytes(*shape, "k") + codec.stored_bytes(*shape, "v")
    return replace(policy, device_bytes=int(spans * GEOMETRY.layers * span))


def pair(codec: CodecConfig, policy: CachePolicy, spans: float, batch: int = 1) -> tuple[KVCache, KVCache]:
    """A cache that keeps all on the device, and one with room for `spans` spans there."""
    a, b = (
        KVCache(GEOMETRY, codec, each, frames_per_block=FRAMES_PER_BLOCK, batch=batch)
        for each in (policy, budget(codec, policy, spans, batch))
    )
    return a, b


def random(generator: torch.Generator, blocks: int = 1, batch: int = 1) -> tuple[Tensor, Tensor]:
    k, v = torch.randn(2, batch, HEADS, blocks * BLOCK, GEOMETRY.head_dim, generator=generator).bfloat16()
    return k, v


def turn(k: Tensor, first_frame: int) -> Tensor:
    return k * (1 + 0.1 * first_frame)


def assert_same(caches: tuple[KVCache, KVCache], generator: torch.Generator) -> None:
    """Both read the same, in every way there is, and hold the same bytes."""
    q = torch.randn(caches[0].batch, HEADS, 5, GEOMETRY.head_dim, generator=generator)
    for index in range(GEOMETRY.layers):
        here, away = (cache.layer(index) for cache in caches)
        assert torch.equal(attend(q, here, turn), attend(q, away, turn))
        # All are kept at once: none is overwritten by the next.
        for one, other in zip(
            list(here.pieces(here.choice.dtype)), list(away.pieces(here.choice.dtype)), strict=True
        ):
            assert one.first_frame == other.first_frame
            assert torch.equal(one.k, other.k)
            assert torch.equal(one.v, other.v)
    here, away = (cache.stats() for cache in caches)
    assert (here.stored_bytes, here.parts, here.ratio) == (away.stored_bytes, away.parts, away.ratio)
    assert here.host_bytes == 0


@pytest.mark.parametrize(
    ("codec", "policy", "spans"),
    [
        *((codec, POLICIES[1], 1) for codec in CODECS),
        *((codec, policy, spans) for codec in (BF16, SMALL) for policy in POLICIES for spans in (0, 2.5)),
    ],
    ids=str,
)
def test_what_is_read_does_not_depend_on_where_it_is(
    codec: CodecConfig, policy: CachePolicy, spans: float
) -> None:
    generator = torch.Generator().manual_seed(0)
    caches = pair(codec, policy, spans, batch=2)
    for number in range(1, 8):
        for index in range(GEOMETRY.layers):
            k, v = random(generator, batch=2)
            for cache in caches:
                cache.layer(index).stage(k, v)
        for cache in caches:
            cache.commit()
        assert_same(caches, generator)
        away = caches[1]
        held = away.stats()
        expected, room = host_bytes(GEOMETRY, codec, away.policy, number, FRAMES_PER_BLOCK, batch=2)
        assert held.host_bytes == expected
        assert held.device_bytes + held.host_bytes == held.stored_bytes
        assert held.stored_bytes == cache_bytes(GEOMETRY, codec, policy, number, FRAMES_PER_BLOCK, 2)[0]
        encoded = held.device_bytes - held.parts["sink"] - held.parts["recent"]
        assert away.policy.device_bytes is not None
        assert encoded <= away.policy.device_bytes
        # A row is padded a little; room may be left of a span that is gone.
        assert away.offload.nbytes <= room + 2 * 2 * HEADS * 8 * ALIGN or expected == 0
    assert caches[1].stats().host_bytes > 0 or caches[1].stats().spans <= spans


def test_spans_go_oldest_first_and_stay_there() -> None:
    codec = SMALL
    generator = torch.Generator().manual_seed(1)
    _, cache = pair(codec, CachePolicy(every=1), 2)
    where = []
    for _ in range(5):
        for index in range(GEOMETRY.layers):
            cache.layer(index).stage(*random(generator))
        cache.commit()
        where.append([stretch.host is not None for stretch in cache.layer(1).stretches()])
    assert where == [[False], [False] * 2, *([True] * n + [False] * 2 for n in (1, 2, 3))]


@pytest.mark.parametrize("codec", CODECS, ids=str)
@pytest.mark.parametrize("spans", [0, 2.5])
def test_rewriting_starts_from_spans_wherever_they_are(codec: CodecConfig, spans: float) -> None:
    generator = torch.Generator().manual_seed(2)
    caches = pair(codec, CachePolicy(every=2, sink=1), spans)
    for blocks in (3, 7, 5):
        for index in range(GEOMETRY.layers):
            k, v = random(generator, blocks)
            for cache in caches:
                cache.rewrite(index, k, v)
        assert_same(caches, generator)
        for index in range(GEOMETRY.layers):
            k, v = random(generator)
            for cache in caches:
                cache.layer(index).stage(k, v)
        for cache in caches:
            cache.commit()
        assert_same(caches, generator)


@pytest.mark.parametrize(
    ("codec", "spans"), [*((codec, 4) for codec in CODECS), (SMALL, 0), (SMALL, 1)], ids=str
)
def test_a_history_given_whole_is_the_oldest(codec: CodecConfig, spans: float) -> None:
    generator = torch.Generator().manual_seed(3)
    caches = pair(codec, CachePolicy(every=1), spans)
    was_away = []
    for _ in range(2):
        for index in range(GEOMETRY.layers):
            # Not whole blocks, and of more frames than a span.
            k, v = torch.randn(2, 1, HEADS, 5 * TOKENS_PER_FRAME, 64, generator=generator).bfloat16()
            for cache in caches:
                cache.layer(index).preload(k, v)
        for cache in caches:
            cache.commit()
        for number in range(5):
            assert_same(caches, generator)
            first = next(caches[1].layer(0).stretches())
            was_away.append(first.host is not None)
            if number == 4:
                break
            for index in range(GEOMETRY.layers):
                k, v = random(generator)
                for cache in caches:
                    cache.layer(index).stage(k, v)
            for cache in caches:
                cache.commit()
    assert was_away[:5] == was_away[5:]
    # With room for four spans it stays until there are three of them beside it.
    assert was_away[:5] == ([False] * 3 + [True] * 2 if spans == 4 else [True] * 5)


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_chosen_blocks_and_some_heads(codec: CodecConfig) -> None:
    generator = torch.Generator().manual_seed(4)
    caches = pair(codec, CachePolicy(every=3, recent=1), 1)
    for _ in range(11):
        for index in range(GEOMETRY.layers):
            k, v = random(generator)
            for cache in caches:
                cache.layer(index).stage(k, v)
        for cache in caches:
            cache.commit()
    here, away = (cache.layer(0) for cache in caches)
    blocks = (0, 2, 3, 4, 7, 8, 10)
    for one, other in zip(
        here.chosen(blocks, torch.float32), away.chosen(blocks, torch.float32), strict=True
    ):
        assert one.first_frame == other.first_frame
        assert torch.equal(one.k, other.k)
        assert torch.equal(one.v, other.v)
    # As two streams read them in turn.
    stretches = list(zip(here.stretches(), away.stretches(), strict=True))
    assert [there.host is not None for _, there in stretches] == [True, True, False, False]
    for stream, heads in ((0, slice(0, 1)), (1, slice(1, 3)), (0, slice(2, 3))):
        for at, there in stretches:
            for x, y in zip(
                here.read(at, torch.float32, heads),
                away.read(there, torch.float32, heads, stream=stream),
                strict=True,
            ):
                assert x.shape == (1, heads.stop - heads.start, at.tokens, 64)
                assert torch.equal(x, y)
    (span,) = {there.host.rows.nbytes for _, there in stretches if there.host is not None}
    # Stream 0 has read one head at a time, stream 1 two of the three; `chosen` reads all, in stream 0.
    assert 3 * caches[1].offload.nbytes == (3 + 2) * span


def test_reset_lets_all_memory_go() -> None:
    generator = torch.Generator().manual_seed(5)
    caches = pair(SMALL, CachePolicy(every=1), 0)
    cache = caches[1]
    for _ in range(3):
        for index in range(GEOMETRY.layers):
            cache.layer(index).stage(*random(generator))
        cache.commit()
    attend(torch.ones(1, HEADS, 1, 64), cache.layer(0))
    spans = [weakref.ref(stretch.host) for stretch in cache.layer(0).stretches() if stretch.host is not None]
    pieces = [weakref.ref(cache.offload), weakref.ref(cache.offload._memory)]
    assert len(spans) == 3
    assert cache.stats().host_bytes > 0
    cache.reset()
    gc.collect()
    assert [each() for each in (*spans, *pieces)] == [None] * 5
    stats = cache.stats()
    assert (stats.host_bytes, stats.scratch_bytes) == (0, 0)


def test_memory_is_taken_in_large_pieces_and_used_again() -> None:
    memory = HostMemory(pinned=False)
    size = 3 * ALIGN
    taken = [memory.take(size) for _ in range(10)]
    pieces = {x.untyped_storage().data_ptr() for x in taken}
    assert len(pieces) == 1
    assert taken[0].untyped_storage().nbytes() == 8192  # 8 times 768 bytes and more, a power of two
    assert len({x.data_ptr() for x in taken}) == 10
    freed = taken.pop(4)
    memory.give_back(freed)
    assert memory.take(size).data_ptr() == freed.data_ptr()
    assert memory.take(2 * size).untyped_storage().data_ptr() not in pieces


def test_what_leaves_the_window_makes_room_on_the_host() -> None:
    generator = torch.Generator().manual_seed(6)
    _, cache = pair(SMALL, CachePolicy(every=1, window=3), 1)
    places = set()
    for _ in range(20):
        for index in range(GEOMETRY.layers):
            cache.layer(index).stage(*random(generator))
        cache.commit()
        places |= {s.host.rows.data_ptr() for s in cache.layer(0).stretches() if s.host is not None}
    assert len(places) < 8


def test_a_span_that_a_copy_of_the_history_holds_is_not_overwritten() -> None:
    offload, generator = Offload(torch.device("cpu")), torch.Generator().manual_seed(7)
    codec = build_codec(SMALL)

    def stored() -> tuple[HostSpan, Tensor]:
        k, v = (codec.encode(x) for x in random(generator))
        return offload.store(k, v), codec.decode(k)

    held, expected = stored()
    also_held = (held,)
    del held
    for _ in range(20):
        stored()
    (span,) = also_held
    assert torch.equal(codec.decode(offload.load(span)[0]), expected)


def test_a_host_without_room_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*shape: object, **options: object) -> Tensor:
        raise RuntimeError("CUDA error: out of memory")

    memory = HostMemory(pinned=True)
    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(MemoryError, match="cannot pin 256 MiB more for encoded history; raise device_bytes"):
        memory.take(30 << 20)


def test_staging_in_inference_mode_and_reading_outside() -> None:
    generator = torch.Generator().manual_seed(8)
    caches = pair(SMALL, CachePolicy(every=1), 0)
    for _ in range(3):
        with torch.inference_mode():
            for index in range(GEOMETRY.layers):
                k, v = random(generator)
                for cache in caches:
                    cache.layer(index).stage(k, v)
            for cache in caches:
                cache.commit()
            assert_same(caches, generator)
        assert_same(caches, generator)
