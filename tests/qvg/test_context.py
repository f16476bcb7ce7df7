"""History given whole, and a working block that several queries sharing one history bring along."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qvg import BF16, PRESETS, QVG, CacheGeometry, CachePolicy, KVCache, attend, build_codec
from qvg.config import CodecConfig
from qvg.rope import grid_rope

HEADS, HEAD_DIM, ROWS, COLUMNS, FRAMES_PER_BLOCK = 2, 64, 2, 3, 2
TOKENS = ROWS * COLUMNS
GEOMETRY = CacheGeometry(layers=2, heads=HEADS, head_dim=HEAD_DIM, tokens_per_frame=TOKENS)
ROPE = grid_rope(16, ROWS, COLUMNS, (12, 10, 10))


def make_cache(codec: CodecConfig = BF16, policy: CachePolicy | None = None, batch: int = 1) -> KVCache:
    policy = policy or CachePolicy(every=2)
    return KVCache(GEOMETRY, codec, policy, frames_per_block=FRAMES_PER_BLOCK, batch=batch)


def random(frames: int, seed: int, batch: int = 1, tokens: int = TOKENS) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    k, v = torch.randn(2, batch, HEADS, frames * tokens, HEAD_DIM, generator=generator).bfloat16().float()
    return k, v


def preload(cache: KVCache, frames: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    given = [random(frames, seed + index, cache.batch) for index in range(GEOMETRY.layers)]
    for index, (k, v) in enumerate(given):
        cache.layer(index).preload(k, v)
    cache.commit()
    return given


def dense(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return torch.nn.functional.scaled_dot_product_attention(q, ROPE(k, 0), v)


@pytest.mark.parametrize("frames", [1, 4, 7])
def test_history_given_whole_is_read_before_the_working_block(frames: int) -> None:
    cache = make_cache()
    (past_k, past_v), _ = preload(cache, frames)
    assert cache.frames == frames
    k, v = random(3, 9)
    q = ROPE(random(3, 8)[0], frames)
    expected = dense(q, torch.cat([past_k, k], 2), torch.cat([past_v, v], 2))
    torch.testing.assert_close(attend(q, cache.layer(0), ROPE, (k, v)), expected, atol=1e-5, rtol=1e-5)


def test_without_history_the_working_block_is_all_there_is() -> None:
    k, v = random(2, 1)
    q = ROPE(random(2, 2)[0], 0)
    heard = attend(q, make_cache().layer(0), ROPE, (k, v))
    torch.testing.assert_close(heard, dense(q, k, v), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("codec", [BF16, QVG])
def test_branches_share_a_history_without_seeing_each_other(batch: int, codec: CodecConfig) -> None:
    cache = make_cache(codec, batch=batch)
    preload(cache, 5)
    k, v = random(3, 9, 3 * batch)
    q = ROPE(random(3, 8, 3 * batch)[0], 5)
    together = attend(q, cache.layer(0), ROPE, (k, v))
    for branch in range(3):
        items = slice(branch * batch, (branch + 1) * batch)
        alone = attend(q[items], cache.layer(0), ROPE, (k[items], v[items]))
        torch.testing.assert_close(together[items], alone, atol=1e-5, rtol=1e-5)


def test_blocks_may_follow() -> None:
    cache = make_cache(policy=CachePolicy(every=2, sink=1))
    past_k, past_v = preload(cache, 3)[0]
    for block in range(6):
        k, v = random(FRAMES_PER_BLOCK, 20 + block)
        for index in range(GEOMETRY.layers):
            cache.layer(index).stage(k, v)
        past_k, past_v = torch.cat([past_k, k], 2), torch.cat([past_v, v], 2)
        q = ROPE(random(FRAMES_PER_BLOCK, 7)[0], cache.frames)
        expected = dense(q, past_k, past_v)
        torch.testing.assert_close(attend(q, cache.layer(0), ROPE), expected, atol=1e-5, rtol=1e-5)
        cache.commit()
        assert cache.frames == 3 + 2 * (block + 1)
        assert cache.stats().frames == cache.frames
        assert cache.stats().tokens == cache.frames * TOKENS


def test_the_next_one_takes_its_place() -> None:
    cache = make_cache()
    preload(cache, 7)
    cache.layer(0).stage(*random(FRAMES_PER_BLOCK, 1))
    past_k, past_v = preload(cache, 4, seed=50)[0]
    assert cache.frames == cache.stats().frames == 4
    assert cache.stats().scratch_bytes == 0, "the staged block's buffers are gone"
    k, v = random(2, 9)
    q = ROPE(k, 4)
    expected = dense(q, torch.cat([past_k, k], 2), torch.cat([past_v, v], 2))
    torch.testing.assert_close(attend(q, cache.layer(0), ROPE, (k, v)), expected, atol=1e-5, rtol=1e-5)
    cache.reset()
    assert cache.frames == cache.stats().stored_bytes == 0


def test_kmeans_starts_from_what_is_replaced() -> None:
    cache = make_cache(QVG)
    k_codec, v_codec = build_codec(QVG, "k"), build_codec(QVG, "v")
    warm_k = warm_v = None
    for frames, seed in ((60, 0), (60, 1), (70, 2)):
        k, v = random(frames, seed)
        for index in range(GEOMETRY.layers):
            cache.layer(index).preload(k, v)
        cache.commit()
        starts = seed == 1  # the first has nothing to start from, the last is longer
        warm_k = k_codec.encode(k, warm_k if starts else None)
        warm_v = v_codec.encode(v, warm_v if starts else None)
        q, working = 3 * random(1, 8)[0], random(1, 9)
        heard = attend(q, cache.layer(1), None, working)
        past = k_codec.decode(warm_k), v_codec.decode(warm_v)
        expected = torch.nn.functional.scaled_dot_product_attention(
            q, *(torch.cat(pair, 2) for pair in zip(past, working, strict=True))
        )
        torch.testing.assert_close(heard, expected, atol=1e-5, rtol=1e-5)
        if starts:
            assert not torch.equal(k_codec.decode(k_codec.encode(k)), past[0])


@pytest.mark.parametrize("name", PRESETS)
def test_bytes_are_those_of_one_span(name: str) -> None:
    cache = make_cache(PRESETS[name])
    preload(cache, 5)
    shape = (1, HEADS, 5 * TOKENS, HEAD_DIM)
    stats = cache.stats()
    codec = PRESETS[name]
    assert stats.stored_bytes == 2 * (codec.stored_bytes(*shape, "k") + codec.stored_bytes(*shape, "v"))
    assert stats.bf16_bytes == 2 * 2 * BF16.stored_bytes(*shape)
    assert (stats.frames, stats.total_frames, stats.tokens, stats.spans) == (5, 5, 5 * TOKENS, 1)
    assert stats.encode_ms > 0


def test_frames_of_another_size_are_counted_as_frames() -> None:
    cache = make_cache()
    for index in range(GEOMETRY.layers):
        cache.layer(index).preload(*random(3, 0, tokens=4), frames=3)
    cache.commit()
    stats = cache.stats()
    assert (cache.frames, stats.frames, stats.tokens) == (3, 3, 12)


def test_what_does_not_fit_is_refused_in_words() -> None:
    cache = make_cache()
    layer = cache.layer(0)
    k, v = random(3, 0)
    for tokens in (17, 14, 5):
        with pytest.raises(ValueError, match=f"K has {tokens} tokens and V {tokens}, which are not . whole"):
            layer.preload(k[:, :, :tokens], v[:, :, :tokens])
    for frames in (0, 4):
        with pytest.raises(ValueError, match=f"not {frames} whole frames"):
            layer.preload(k, v, frames=frames)
    with pytest.raises(ValueError, match="K has 18 tokens and V 12"):
        layer.preload(k, v[:, :, :12])
    with pytest.raises(ValueError, match=r"V is \(1, 1, 18, 64\)"):
        layer.preload(k, v[:, :1])
    layer.preload(k, v)
    with pytest.raises(ValueError, match="layer 1 has 0 frames preloaded, but layer 0 has 3"):
        cache.commit()
    with pytest.raises(ValueError, match="3 preloaded frames are not committed"):
        layer.stage(*random(FRAMES_PER_BLOCK, 1))
    cache.layer(1).preload(k, v)
    cache.commit()
    with pytest.raises(ValueError, match="q is"):
        attend(random(1, 0, 2)[0], layer, ROPE)
    with pytest.raises(ValueError, match="the working V is"):
        attend(k, layer, ROPE, (k, v[:, :, :, :32]))
    with pytest.raises(ValueError, match="q is"):
        attend(random(1, 0, 3)[0], make_cache(batch=2).layer(0), ROPE, random(1, 0, 3))


@pytest.mark.parametrize("blocks", [[0], [2], [0, 2], [1, 2], [0, 1, 2]])
def test_chosen_blocks_count_frames_from_0_after_preloaded_history(blocks: list[int]) -> None:
    cache = make_cache(policy=CachePolicy(every=1, recent=1))
    preload(cache, 3)
    for number in range(3):  # blocks 0 and 1 are encoded, block 2 is not
        for index in range(GEOMETRY.layers):
            cache.layer(index).stage(*random(FRAMES_PER_BLOCK, number))
        cache.commit()
    cache.layer(0).stage(*random(FRAMES_PER_BLOCK, 3))
    frames = [
        piece.first_frame + frame
        for piece in cache.layer(0).chosen(blocks, torch.float32)
        for frame in range(piece.k.shape[2] // TOKENS)
    ]
    assert frames == list(range((len(blocks) + 1) * FRAMES_PER_BLOCK))


@pytest.mark.parametrize("committed", [False, True])
def test_rewriting_replaces_preloaded_history(committed: bool) -> None:
    cache = make_cache(policy=CachePolicy(every=1, recent=1))
    for index in range(GEOMETRY.layers):
        cache.layer(index).preload(*random(3, index))
    if committed:
        cache.commit()
    given = [random(2 * FRAMES_PER_BLOCK, 10 + index) for index in range(GEOMETRY.layers)]
    for index, (k, v) in enumerate(given):
        cache.rewrite(index, k, v)
    assert cache.frames == 2 * FRAMES_PER_BLOCK
    k, v = random(FRAMES_PER_BLOCK, 20)
    for index in range(GEOMETRY.layers):
        cache.layer(index).stage(k, v)
    q = ROPE(k, cache.frames)
    expected = dense(q, torch.cat([given[1][0], k], 2), torch.cat([given[1][1], v], 2))
    torch.testing.assert_close(attend(q, cache.layer(1), ROPE), expected, atol=1e-5, rtol=1e-5)
    cache.commit()
    stats = cache.stats()
    assert (cache.frames, stats.frames, stats.tokens) == (6, 6, 6 * TOKENS)


def test_a_layer_left_out_of_rewriting_is_noticed_by_its_preloaded_frames() -> None:
    cache = make_cache(policy=CachePolicy(every=1, recent=1))
    preload(cache, 3)
    k, v = random(FRAMES_PER_BLOCK, 1)
    for index in range(GEOMETRY.layers):
        cache.layer(index).stage(k, v)
    cache.commit()
    cache.rewrite(0, k, v)  # as many blocks as layer 1 has after its preloaded frames
    for index in range(GEOMETRY.layers):
        cache.layer(index).stage(k, v)
    with pytest.raises(ValueError, match="layer 1 still has preloaded frames"):
        cache.commit()


def test_no_snapshot_between_preload_and_commit() -> None:
    cache = make_cache()
    preload(cache, 2)
    cache.layer(0).preload(*random(4, 0))
    with pytest.raises(ValueError, match="preloaded frames are not committed yet"):
        cache.snapshot()
