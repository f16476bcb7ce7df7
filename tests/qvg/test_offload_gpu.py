"""Spans in pinned memory on a CUDA device: the same bits in little memory, and nobody waits or overtakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import qvg.attention
import qvg.offload
from qvg import BF16, KIVI, QUAROT, QVG, QVG_MAX, QVG_PRO, CacheGeometry, CachePolicy, KVCache, attend
from qvg.attention import attend_chosen
from qvg.config import CodecConfig
from qvg.offload import HostSpan, empty_host_cache
from qvg.policy import host_bytes
from qvg.rope import Rope, grid_rope

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

HEADS, HEAD_DIM = 5, 128
GEOMETRY = CacheGeometry(layers=3, heads=HEADS, head_dim=HEAD_DIM, tokens_per_frame=30)
BLOCK = 90
STREAM_BYTES = 2 * 180 * HEAD_DIM * 2 * 2  # keys and values of two heads of a span: three groups, two streams
CYCLES = 300_000  # a few tenths of a millisecond: many times what a copy or a decoding takes here


def rope() -> Rope:
    return grid_rope(64, 5, 6, (22, 21, 21), device="cuda")


def fill(cache: KVCache, blocks: int, seed: int = 0) -> None:
    geometry = cache.geometry
    tokens = cache.frames_per_block * geometry.tokens_per_frame
    generator = torch.Generator("cuda").manual_seed(seed)
    for _ in range(blocks):
        for index in range(geometry.layers):
            shape = (2, cache.batch, geometry.heads, tokens, geometry.head_dim)
            k, v = torch.randn(shape, device="cuda", generator=generator, dtype=torch.bfloat16)
            cache.layer(index).stage(k, v)
        cache.commit()


def queries(heads: int = HEADS, tokens: int = 77, seed: int = 1) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(1, heads, tokens, HEAD_DIM, device="cuda", generator=generator).bfloat16()


@contextmanager
def no_waiting() -> Iterator[None]:
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


def slow_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every copy back comes late: who reads without waiting reads what was there before."""
    copy = HostSpan.copy_to

    def late(self: HostSpan, *arguments: object) -> Tensor:
        torch.cuda._sleep(CYCLES)
        return copy(self, *arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(HostSpan, "copy_to", late)


def slow_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding and attention come late: a copy that does not wait overwrites what they read."""
    partial, copy = qvg.attention.partial_attention, HostSpan.copy_to

    def before_decoding(self: HostSpan, *arguments: object) -> Tensor:
        copied = copy(self, *arguments)  # pyright: ignore[reportArgumentType]
        torch.cuda._sleep(CYCLES)
        return copied

    def late(*arguments: object) -> object:
        torch.cuda._sleep(CYCLES)
        return partial(*arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(HostSpan, "copy_to", before_decoding)
    monkeypatch.setattr(qvg.attention, "partial_attention", late)


def as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    pass


@pytest.mark.parametrize("pace", [as_it_comes, slow_copies, slow_reads])
@pytest.mark.parametrize("streams", [1, 2])
@pytest.mark.parametrize("codec", [BF16, QVG, QVG_PRO, QVG_MAX, KIVI, QUAROT], ids=str)
def test_what_is_read_is_the_same_to_the_bit(
    codec: CodecConfig,
    streams: int,
    pace: Callable[[pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if streams == 2:
        monkeypatch.setattr("qvg.attention.STREAM_BYTES", STREAM_BYTES)
    turn, q = rope(), queries()
    for policy in (CachePolicy(every=2, sink=1, recent=1), CachePolicy(every=2, window=7)):
        here, away = (
            KVCache(GEOMETRY, codec, replace(policy, device_bytes=most), frames_per_block=3, device="cuda")
            for most in (None, 0)
        )
        for cache in (here, away):
            fill(cache, 13)
        assert away.stats().host_bytes > 0
        expected = [attend(q, here.layer(index), turn) for index in range(GEOMETRY.layers)]
        plain = [attend(q, here.layer(index)) for index in range(GEOMETRY.layers)]
        with monkeypatch.context() as paced:
            pace(paced)
            for _ in range(2):
                got = [attend(q, away.layer(index), turn) for index in range(GEOMETRY.layers)]
                got_plain = [attend(q, away.layer(index)) for index in range(GEOMETRY.layers)]
                for one, other in zip((*expected, *plain), (*got, *got_plain), strict=True):
                    assert torch.equal(one, other)


def test_it_is_the_same_from_other_streams_and_while_the_history_grows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("qvg.attention.STREAM_BYTES", STREAM_BYTES // 2)
    turn = grid_rope(72, 5, 6, (22, 21, 21), device="cuda")
    here, away = (
        KVCache(
            GEOMETRY,
            QVG,
            CachePolicy(every=1, window=4, device_bytes=most),
            frames_per_block=3,
            device="cuda",
        )
        for most in (None, 0)
    )
    streams = [torch.cuda.current_stream(), torch.cuda.Stream(), torch.cuda.Stream()]
    results: list[tuple[Tensor, Tensor]] = []
    for number in range(24):
        # Spans leave the window and their memory is written again while reads are still under way.
        stream = streams[number % 3]
        stream.wait_stream(streams[(number - 1) % 3])
        with torch.cuda.stream(stream):
            for cache in (here, away):
                fill(cache, 1, seed=number)
            for index in range(GEOMETRY.layers):
                q = queries(seed=number)
                results.append((attend(q, here.layer(index), turn), attend(q, away.layer(index), turn)))
    torch.cuda.synchronize()
    assert all(torch.equal(one, other) for one, other in results)


def test_chosen_blocks_rewriting_and_history_given_whole() -> None:
    q = queries()
    here, away = (
        KVCache(GEOMETRY, QVG, CachePolicy(every=2, device_bytes=most), frames_per_block=3, device="cuda")
        for most in (None, 0)
    )

    def same() -> None:
        for index in range(GEOMETRY.layers):
            one, other = (attend(q, cache.layer(index)) for cache in (here, away))
            assert torch.equal(one, other)

    def prepare(k: Tensor, v: Tensor, first_frame: int) -> list[tuple[Tensor, Tensor]]:
        return [(k, v)]

    generator = torch.Generator("cuda").manual_seed(3)
    for blocks in (7, 9, 5):
        for index in range(GEOMETRY.layers):
            shape = (2, 1, HEADS, blocks * BLOCK, HEAD_DIM)
            k, v = torch.randn(shape, device="cuda", generator=generator).bfloat16()
            for cache in (here, away):
                cache.rewrite(index, k, v)
        same()
        chosen = [attend_chosen([q], cache.layer(1), (0, 2, 3), prepare)[0] for cache in (here, away)]
        assert torch.equal(*chosen)
    for _ in range(2):
        for index in range(GEOMETRY.layers):
            k, v = torch.randn(2, 1, HEADS, 330, HEAD_DIM, device="cuda", generator=generator).bfloat16()
            for cache in (here, away):
                cache.layer(index).preload(k, v)
        for cache in (here, away):
            cache.commit()
            fill(cache, 3)
        same()
    assert away.stats().host_bytes > 0


LARGE = CacheGeometry(layers=2, heads=12, head_dim=128, tokens_per_frame=1560)  # Self-Forcing's heads


def test_reading_takes_little_memory_and_waits_for_nothing() -> None:
    """Twelve spans of 24 latents a layer, as in the paper's experiments but fewer layers."""
    policy = CachePolicy(every=8, device_bytes=0)
    expected, room = host_bytes(LARGE, QVG, policy, 96, 3)
    q, turn = queries(12, 4680), grid_rope(512, 30, 52, (22, 21, 21), device="cuda")
    extra: list[int] = []
    held: list[int] = []
    results: list[Tensor] = []
    for most in (None, 0):
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        cache = KVCache(LARGE, QVG, replace(policy, device_bytes=most), frames_per_block=3, device="cuda")
        fill(cache, 96)
        held.append(torch.cuda.memory_allocated() - before)
        # The first read builds kernels and takes the room that all others share.
        attend(q, cache.layer(0), turn)
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        with no_waiting():
            results.append([attend(q, cache.layer(index), turn) for index in range(LARGE.layers)][-1])
        extra.append(torch.cuda.max_memory_allocated() - before - held[-1])
        stats = cache.stats()
        if most is not None:
            assert stats.host_bytes == expected
            assert cache.offload.nbytes <= 1.01 * room
        cache.reset()
        del cache
    assert torch.equal(results[0], results[1])
    assert held[0] - held[1] >= 0.99 * expected
    assert extra[1] <= extra[0] + 1.01 * room
    assert extra[1] <= 300 << 20  # of 2.57 GiB that a layer's history takes in BF16


def test_storing_waits_for_nothing() -> None:
    cache = KVCache(GEOMETRY, QVG, CachePolicy(every=2, device_bytes=0), frames_per_block=3, device="cuda")
    fill(cache, 2)
    payloads = cache.offload.load(next(s.host for s in cache.layer(0).stretches() if s.host))
    with no_waiting():
        stored = [cache.offload.store(*payloads) for _ in range(3)]
        back = [cache.offload.load(span) for span in stored]
    for k, v in back:
        for payload, like in ((k, payloads[0]), (v, payloads[1])):
            for name, part in payload.parts.items():
                assert torch.equal(part.view(torch.uint8), like.parts[name].view(torch.uint8)), name


@pytest.mark.skipif(not hasattr(torch.cuda, "host_memory_stats"), reason="this torch does not count it")
def test_pinned_memory_goes_back_to_the_system_after_reset() -> None:
    empty_host_cache()
    before = torch.cuda.host_memory_stats()["allocated_bytes.current"]
    cache = KVCache(GEOMETRY, QVG, CachePolicy(every=2, device_bytes=0), frames_per_block=3, device="cuda")
    fill(cache, 8)
    attend(queries(), cache.layer(0))
    stats = cache.stats()
    torch.cuda.synchronize()
    held = torch.cuda.host_memory_stats()["allocated_bytes.current"] - before
    # Pieces are of eight to sixteen spans, of which some are not used yet.
    assert stats.host_bytes <= held
    cache.reset()
    torch.cuda.synchronize()
    empty_host_cache()
    assert torch.cuda.host_memory_stats()["allocated_bytes.current"] == before
