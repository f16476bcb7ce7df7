"""Reading chosen blocks of a history, several attentions at once; replacing a whole history."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from qvg import BF16, CacheGeometry, CachePolicy, KVCache, attend
from qvg.attention import attend_chosen
from qvg.config import PRQConfig

HEADS, HEAD_DIM, TOKENS_PER_FRAME, FRAMES_PER_BLOCK = 2, 16, 7, 3
GEOMETRY = CacheGeometry(layers=2, heads=HEADS, head_dim=HEAD_DIM, tokens_per_frame=TOKENS_PER_FRAME)
BLOCK = TOKENS_PER_FRAME * FRAMES_PER_BLOCK
SMALL = PRQConfig(clusters=8, group=16)

POLICIES = [
    CachePolicy(every=8),
    CachePolicy(every=3),
    CachePolicy(every=2, sink=1),
    CachePolicy(every=1, sink=2, recent=2),
    CachePolicy(every=3, sink=1, recent=1, window=5),
]


def make_cache(policy: CachePolicy, codec=BF16) -> KVCache:
    return KVCache(GEOMETRY, codec, policy, frames_per_block=FRAMES_PER_BLOCK)


def random_blocks(seed: int, count: int) -> tuple[Tensor, Tensor]:
    k, v = torch.randn(
        2, 1, HEADS, count * BLOCK, HEAD_DIM, generator=torch.Generator().manual_seed(seed)
    ).bfloat16()
    return k, v


def by_frame(k: Tensor, v: Tensor, first_frame: int) -> list[tuple[Tensor, Tensor]]:
    """One attention that knows frames by their number, and one that does not and sees other values."""
    frames = first_frame + torch.arange(k.shape[2]) // TOKENS_PER_FRAME
    return [(k.float() * (0.5 + 0.1 * frames[:, None]), v), (k, v.float() * 2)]


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q @ k.float().mT * HEAD_DIM**-0.5).softmax(-1) @ v.float()


def filled(policy: CachePolicy, count: int) -> tuple[KVCache, Tensor, Tensor]:
    """A cache of `count` blocks and one more that is staged, and all their keys and values."""
    cache = make_cache(policy)
    k, v = random_blocks(0, count + 1)
    for number, (block_k, block_v) in enumerate(zip(k.split(BLOCK, 2), v.split(BLOCK, 2), strict=True)):
        for index in range(GEOMETRY.layers):
            cache.layer(index).stage(block_k, block_v)
        if number < count:
            cache.commit()
    return cache, k, v


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_any_choice_of_blocks_is_read_and_numbered_without_gaps(policy: CachePolicy) -> None:
    count = 7
    cache, k, v = filled(policy, count)
    layout = policy.layout(count)
    visible = [block for block in range(count) if block in layout.sink or block >= layout.first_visible]
    queries = [torch.randn(1, HEADS, 5, HEAD_DIM, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]
    for size in range(len(visible) + 1):
        for blocks in itertools.combinations(visible, size):
            tokens = torch.cat([torch.arange(BLOCK) + block * BLOCK for block in (*blocks, count)])
            prepared = by_frame(k[:, :, tokens], v[:, :, tokens], 0)
            expected = [dense(q, *kv) for q, kv in zip(queries, prepared, strict=True)]
            found = attend_chosen(queries, cache.layer(1), blocks, by_frame)
            for each, wanted in zip(found, expected, strict=True):
                torch.testing.assert_close(each, wanted, atol=1e-5, rtol=1e-5)


def test_all_blocks_chosen_is_plain_attention_of_a_quantized_cache() -> None:
    cache = make_cache(CachePolicy(every=2), SMALL)
    k, v = random_blocks(3, 6)
    for block_k, block_v in zip(k.split(BLOCK, 2), v.split(BLOCK, 2), strict=True):
        for index in range(GEOMETRY.layers):
            cache.layer(index).stage(block_k, block_v)
        cache.commit()
    q = torch.randn(1, HEADS, 5, HEAD_DIM, generator=torch.Generator().manual_seed(4))
    (found,) = attend_chosen([q], cache.layer(0), range(6), lambda k, v, _: [(k, v)])
    torch.testing.assert_close(found, attend(q, cache.layer(0)), atol=1e-6, rtol=1e-6)


def test_spans_that_hold_nothing_chosen_are_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, _, _ = filled(CachePolicy(every=2), 8)
    codec = cache.codecs[0]
    decoded = []
    decode = type(codec).decode
    monkeypatch.setattr(type(codec), "decode", lambda self, *a: decoded.append(a) or decode(self, *a))
    pieces = list(cache.layer(0).chosen((0, 5, 6), torch.bfloat16))
    assert [piece.first_frame for piece in pieces] == [0, 3, 6, 9]
    assert len(decoded) == 2 * 3


@pytest.mark.parametrize("blocks", [(0,), (4, 3), (3, 3), (7,), (-1,)], ids=str)
def test_a_block_that_is_not_held_is_named(blocks: tuple[int, ...]) -> None:
    cache, _, _ = filled(CachePolicy(every=2, window=4), 7)
    with pytest.raises(ValueError, match=r"rising numbers of blocks held: \[3, 4, 5, 6\]"):
        list(cache.layer(0).chosen(blocks, torch.bfloat16))


def test_nothing_to_read_is_said() -> None:
    with pytest.raises(ValueError, match="stage a block first"):
        attend_chosen([torch.zeros(1, HEADS, 1, HEAD_DIM)], make_cache(POLICIES[0]).layer(0), (), by_frame)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
@pytest.mark.parametrize("codec", [BF16, SMALL], ids=["BF16", "QVG"])
def test_a_rewritten_history_is_one_that_was_committed(policy: CachePolicy, codec) -> None:
    """After other histories, longer and shorter; blocks committed later follow it."""
    k, v = random_blocks(5, 8)
    cache, expected = make_cache(policy, codec), make_cache(policy, codec)
    for count in (7, 2, 6):
        other_k, other_v = (k, v) if count == 6 else random_blocks(count, count)
        for index in range(GEOMETRY.layers):
            cache.rewrite(index, other_k[:, :, : count * BLOCK], other_v[:, :, : count * BLOCK])
    for number, (block_k, block_v) in enumerate(zip(k.split(BLOCK, 2), v.split(BLOCK, 2), strict=True)):
        for index in range(GEOMETRY.layers):
            expected.layer(index).stage(block_k, block_v)
            if number >= 6:
                cache.layer(index).stage(block_k, block_v)
        expected.commit()
        if number >= 6:
            cache.commit()
        if number >= 5:
            assert cache.frames == expected.frames
            found, wanted = cache.stats(), expected.stats()
            assert (found.parts, found.frames, found.spans) == (wanted.parts, wanted.frames, wanted.spans)
            q = torch.randn(1, HEADS, 5, HEAD_DIM, generator=torch.Generator().manual_seed(number))
            # Spans of the two start k-means from different places.
            tolerance = 1e-6 if codec is BF16 else 0.15
            torch.testing.assert_close(
                attend(q, cache.layer(0)), attend(q, expected.layer(0)), atol=tolerance, rtol=0
            )


def test_rewriting_starts_k_means_where_the_same_span_was() -> None:
    """Far from convergence it goes on: the same keys again leave less error than the first time."""
    slow = PRQConfig(clusters=16, group=16, iterations=1)
    cache = make_cache(CachePolicy(every=4), slow)
    k, v = random_blocks(9, 8)

    def error() -> float:
        decoded = [piece.k for piece in cache.layer(0).chosen(range(8), torch.float32)]
        return float((torch.cat(decoded, 2) - k.float()).pow(2).mean())

    cache.rewrite(0, k, v)
    first = error()
    for _ in range(4):
        cache.rewrite(0, k, v)
    assert error() < first


def test_layers_must_be_rewritten_together() -> None:
    cache = make_cache(CachePolicy(every=2), SMALL)
    k, v = random_blocks(6, 3)
    cache.rewrite(0, k, v)
    for index in range(GEOMETRY.layers):
        cache.layer(index).stage(k[:, :, :BLOCK], v[:, :, :BLOCK])
    with pytest.raises(ValueError, match="layer 1 holds 0 blocks, but 3 were last rewritten"):
        cache.commit()
    cache.rewrite(1, k, v)
    with pytest.raises(ValueError, match="layer 1 has nothing staged"):
        cache.commit()
    cache.reset()
    assert cache.frames == 0 and cache.stats().stored_bytes == 0


@pytest.mark.parametrize(
    ("k_tokens", "v_tokens", "words"),
    [
        (BLOCK + 1, BLOCK + 1, "whole blocks of 3 frames of 7, 21 tokens"),
        (BLOCK, 2 * BLOCK, "V has 42"),
        (0, 0, "K has 0"),
    ],
)
def test_part_of_a_block_is_refused(k_tokens: int, v_tokens: int, words: str) -> None:
    cache = make_cache(CachePolicy(every=2))
    k, v = (torch.zeros(1, HEADS, tokens, HEAD_DIM) for tokens in (k_tokens, v_tokens))
    with pytest.raises(ValueError, match=words):
        cache.rewrite(0, k, v)
    with pytest.raises(ValueError, match=r"K is \(1, 1, 21, 16\)"):
        cache.rewrite(0, torch.zeros(1, 1, BLOCK, HEAD_DIM), torch.zeros(1, HEADS, BLOCK, HEAD_DIM))
