"""Spans that grow block by block: what is written stays, at every moment, and can be come back to."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from qvg import BF16, KIVI, PRESETS, QVG, QVG_MAX, QVG_PLUS, CacheGeometry, CachePolicy, KVCache
from qvg.codecs import build_codec
from qvg.codecs.base import Growth
from qvg.config import CodecConfig, Filled, SplitConfig, prq_of, with_clusters
from qvg.growing import Growing, encode_part, started
from qvg.payload import GROWING, PRQPayload, without_fine
from qvg.policy import cache_bytes

GEOMETRY = CacheGeometry(layers=3, heads=2, head_dim=64, tokens_per_frame=7)
FRAMES = 2
BLOCK = FRAMES * GEOMETRY.tokens_per_frame
GROWS = CachePolicy(every=4, grows=True, fine=True)
CODECS = [
    BF16,
    replace(QVG, clusters=8),
    replace(QVG_PLUS, clusters=8),
    SplitConfig(k=replace(QVG_MAX.k, clusters=8, group=64), v=replace(QVG_MAX.v, clusters=8, group=64)),
    replace(KIVI, group=16),
]


def tokens(seed: int, count: int = BLOCK, heads: int = 2, around: int = 5) -> Tensor:
    """bf16 [1, heads, count, 64] near a few prototypes, which the seed's tens choose."""
    prototypes = 3 * torch.randn(1, heads, around, 64, generator=torch.Generator().manual_seed(seed // 10))
    generator = torch.Generator().manual_seed(1000 + seed)
    which = torch.randint(around, (1, heads, count, 1), generator=generator).expand(-1, -1, -1, 64)
    return (prototypes.gather(2, which) + 0.3 * torch.randn(which.shape, generator=generator)).bfloat16()


def make(codec: CodecConfig, policy: CachePolicy = GROWS) -> KVCache:
    return KVCache(GEOMETRY, codec, policy, frames_per_block=FRAMES)


def commit(cache: KVCache, seed: int) -> None:
    for index in range(GEOMETRY.layers):
        cache.layer(index).stage(tokens(seed + 100 * index), tokens(seed + 1000 + 100 * index))
    cache.commit()


def read(cache: KVCache) -> list[Tensor]:
    """Returns the whole history, decoded."""
    pieces = [piece for index in range(GEOMETRY.layers) for piece in cache.layer(index).pieces(torch.float32)]
    return [x for piece in pieces for x in (piece.k.clone(), piece.v.clone())]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_every_snapshot_stays_what_it_was_whatever_is_appended(codec: CodecConfig) -> None:
    cache, straight = make(codec), make(codec)
    seen = []
    for seed in range(7):
        commit(cache, seed)
        seen.append((cache.snapshot(), read(cache), cache.stats().parts))
    # Back to the middle of a span, on from there with other blocks, and back to what was left.
    cache.restore(seen[4][0])
    for seed in (*range(5), 50, 51, 52, 53):
        commit(straight, seed)
    for seed in (50, 51, 52, 53):
        commit(cache, seed)
    assert same(read(cache), read(straight))
    assert cache.stats().parts == straight.stats().parts
    for snapshot, expected, parts in reversed(seen):
        cache.restore(snapshot)
        assert same(read(cache), expected)
        assert cache.stats().parts == parts


def test_a_snapshot_copies_nothing_that_grows() -> None:
    for codec in CODECS:
        cache = make(codec, replace(GROWS, fine=False))
        commit(cache, 0)
        books = {"centroids", "powers", "channels"}
        parts = cache.stats().parts
        assert cache.snapshot().copied_bytes == sum(parts.get(name, 0) for name in books)
    cache = make(BF16)
    commit(cache, 0)
    assert cache.snapshot().copied_bytes == 0


@pytest.mark.parametrize("codec", CODECS[1:4], ids=str)
def test_what_is_newest_is_finer_until_the_next_block_is_encoded(codec: CodecConfig) -> None:
    cache = make(codec)
    exact = torch.cat([tokens(seed) for seed in range(6)], 2).float()
    errors = []  # of every block, after every block
    for seed in range(6):
        commit(cache, seed)
        k = torch.cat([piece.k for piece in cache.layer(0).pieces(torch.float32)], 2)
        error = (k - exact[:, :, : k.shape[2]]).square()
        errors.append(error.unflatten(2, (-1, BLOCK)).sum((0, 1, 3, 4)).tolist())
        assert cache.stats().parts["fine_codes"] == 2 * 3 * 2 * BLOCK * 16
    for block in range(5):
        finer, *later = (after[block] for after in errors[block:])
        assert finer < 0.3 * later[0]
        assert later == later[:1] * len(later)


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "BF16"])
def test_a_span_grows_by_codes_and_a_few_centroids_that_never_change(name: str) -> None:
    config = with_clusters(PRESETS[name], 12)
    codec = build_codec(config, "k")
    x = [tokens(seed, 40, 3) if seed < 3 else tokens(70, 40, 3) for seed in range(4)]
    x = [torch.cat([block, block], 3) for block in x]  # 128 channels
    growing, before = Growing(encode_part(codec, x[0], None, Growth(Filled(1, 4)))), None
    growing = started(growing.payload, 160)
    for blocks, block in enumerate(x[1:], start=2):
        before = growing.payload
        held = {part: tensor.clone() for part, tensor in before.parts.items()}
        more = encode_part(codec, block, None, Growth(Filled(blocks, 4), before))
        growing = growing.appended(more, 160)
        after = growing.payload
        assert after.shape[2] == 40 * blocks
        prq = prq_of(config, "k")
        expected = blocks * config.stored_bytes(1, 3, 40, 128, "k")
        if prq is not None:
            expected = prq.stored_bytes(1, 3, 40 * blocks, 128, "k", Filled(blocks, 4))
        assert after.stored_bytes == expected
        for part, tensor in held.items():
            assert torch.equal(before.parts[part].float(), tensor.float()), "what was a span stays one"
            dim = GROWING.get(part, 3 if part == "centroids" else None)
            shown = after.parts[part]
            shown = shown if dim is None else shown.narrow(dim, 0, tensor.shape[dim])
            assert torch.equal(shown.float(), tensor.float()), part
        assert torch.equal(codec.decode(after)[:, :, : before.shape[2]], codec.decode(before))
    if isinstance(before, PRQPayload):
        assert before.centroids.shape[3] == 10 and growing.payload.parts["centroids"].shape[3] == 12


def test_content_that_is_new_gets_centroids() -> None:
    config = replace(QVG_PLUS, clusters=16)
    codec = build_codec(config)
    first, new = tokens(0, 200), tokens(500, 200)
    founded = encode_part(codec, first, None, Growth(Filled(1, 2)))

    def lost(payload: PRQPayload) -> float:
        assigned = (
            payload.codebooks[0]
            .float()
            .gather(2, payload.labels[0].long().unsqueeze(-1).expand(-1, -1, -1, 64))
        )
        return float((new.float() - assigned).square().sum() / new.float().square().sum())

    grown = lost(encode_part(codec, new, None, Growth(Filled(2, 2), founded)))
    stiff = lost(
        encode_part(build_codec(replace(config, clusters=8)), new, None, Growth(Filled(2, 2), founded))
    )
    assert grown < 0.1 * stiff


@pytest.mark.parametrize("magnitude", [0.02, 8])
def test_blocks_may_be_much_smaller_or_larger_than_the_first(magnitude: float) -> None:
    for config in CODECS[2:4]:
        codec = build_codec(config, "k")
        first = encode_part(codec, tokens(0), None, Growth(Filled(1, 2)))
        x = (magnitude * tokens(1).float()).bfloat16()
        more = encode_part(codec, x, None, Growth(Filled(2, 2), first, BLOCK))
        for payload, most in ((more, 0.15), (without_fine(more), 0.4)):
            decoded = codec.decode(payload, torch.float32)
            assert (decoded - x.float()).square().sum() < most * x.float().square().sum()


@pytest.mark.parametrize("codec", CODECS, ids=str)
def test_a_rewritten_span_goes_on_growing(codec: CodecConfig) -> None:
    cache, plain = make(codec), make(codec)
    for seed in range(6):
        commit(plain, seed)
    for index in range(GEOMETRY.layers):
        pairs = [(tokens(seed + 100 * index), tokens(seed + 1000 + 100 * index)) for seed in range(6)]
        cache.rewrite(index, *(torch.cat(each, 2) for each in zip(*pairs, strict=True)))
    for seed in range(6, 10):
        assert cache.stats().parts == plain.stats().parts
        assert cache.frames == plain.frames
        commit(cache, seed)
        commit(plain, seed)
        exact = torch.cat([tokens(earlier + 100) for earlier in range(seed + 1)], 2).float()
        one, other = (
            (torch.cat([piece.k for piece in each.layer(1).pieces(torch.float32)], 2) - exact).norm()
            for each in (cache, plain)
        )
        assert one <= 1.5 * other


def test_one_layer_rewritten_leaves_those_that_it_grew_with() -> None:
    cache = make(CODECS[2])
    for seed in range(2):
        commit(cache, seed)
    expected = [piece.k.clone() for piece in cache.layer(0).pieces(torch.float32)]
    k, v = (torch.cat([tokens(seed) for seed in (7, 8)], 2) for _ in "kv")
    cache.rewrite(1, k, v)
    commit(cache, 3)
    held = [piece.k for piece in cache.layer(0).pieces(torch.float32)]
    assert held[0].shape[2] == 3 * BLOCK
    assert torch.equal(held[0][:, :, :BLOCK], expected[0][:, :, :BLOCK])


def test_only_the_newest_span_stays_with_no_room_on_the_device() -> None:
    cache = make(CODECS[2], replace(GROWS, device_bytes=0))
    held = make(CODECS[2])
    for seed in range(10):
        commit(cache, seed)
        commit(held, seed)
        stats = cache.stats()
        assert (stats.host_bytes > 0) == (seed >= 4)
        assert stats.stored_bytes == held.stats().stored_bytes
        assert same(read(cache), read(held))


def test_the_policy_says_what_cannot_be() -> None:
    with pytest.raises(ValueError, match="fine=True is for spans that grow"):
        CachePolicy(fine=True)
    with pytest.raises(ValueError, match=r"shorter than 1 \+ recent = 3"):
        CachePolicy(every=8, recent=2, window=2, grows=True)
    assert CachePolicy(every=8, recent=2, window=3, grows=True).capacity == 3


@pytest.mark.parametrize(
    ("tokens_per_block", "clusters", "least"), [(4680, 256, (5.0, 6.0)), (448, 64, (4.0, 5.0))]
)
def test_the_ratio_of_a_video_from_its_third_block_on(
    tokens_per_block: int, clusters: int, least: tuple[float, float]
) -> None:
    geometry = CacheGeometry(1, 1, 128, tokens_per_block)
    policy = CachePolicy(every=8 if clusters == 256 else 6, grows=True, fine=True)
    for preset in ("QVG INT2", "QVG-Plus INT2"):
        ratios = []
        for blocks in range(1, 61):
            stored, bf16 = cache_bytes(geometry, with_clusters(PRESETS[preset], clusters), policy, blocks, 1)
            ratios.append(bf16 / stored)
        assert min(ratios[2:]) >= least[0] and min(ratios[9:]) >= least[1]
        assert all(later > 0.95 * earlier for earlier, later in pairwise(ratios))
