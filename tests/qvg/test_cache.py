"""The cache with the identity codec, against dense attention over an explicitly kept list of blocks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from qvg import BF16, PRESETS, CacheGeometry, CachePolicy, KVCache, attend
from qvg.policy import cache_bytes

HEADS, HEAD_DIM, TOKENS_PER_FRAME, FRAMES_PER_BLOCK = 2, 16, 7, 3
GEOMETRY = CacheGeometry(layers=2, heads=HEADS, head_dim=HEAD_DIM, tokens_per_frame=TOKENS_PER_FRAME)
BLOCK = TOKENS_PER_FRAME * FRAMES_PER_BLOCK

POLICIES = [
    CachePolicy(every=1),
    CachePolicy(every=3),
    CachePolicy(every=2, sink=1),
    CachePolicy(every=3, sink=2, recent=2),
    CachePolicy(every=1, recent=3),
    CachePolicy(every=2, window=3),
    CachePolicy(every=3, sink=1, recent=1, window=5),
    CachePolicy(every=4, sink=2, recent=0, window=4),
]


def make_cache(policy: CachePolicy, **options) -> KVCache:
    return KVCache(GEOMETRY, BF16, policy, frames_per_block=FRAMES_PER_BLOCK, **options)


def random_block(generator: torch.Generator, batch: int = 1) -> tuple[Tensor, Tensor]:
    k, v = torch.randn(2, batch, HEADS, BLOCK, HEAD_DIM, generator=generator).bfloat16()
    return k, v


def rotate(k: Tensor, first_frame: int) -> Tensor:
    """Turns pairs of channels by an angle that grows with the frame."""
    frames = first_frame + torch.arange(k.shape[2]) // TOKENS_PER_FRAME
    angle = frames[:, None] * torch.tensor([0.31, 0.07]).repeat(HEAD_DIM // 4)
    even, odd = k[..., ::2].float(), k[..., 1::2].float()
    turned = (even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos())
    return torch.stack(turned, dim=-1).flatten(-2)


def visible(policy: CachePolicy, committed: int) -> list[int]:
    """Written out from the definition, not from the policy's own code."""
    oldest = 0 if policy.window is None else committed - policy.window
    return [block for block in range(committed) if block < policy.sink or block >= oldest]


def dense(q: Tensor, blocks: list[tuple[int, Tensor, Tensor]]) -> Tensor:
    """Attention over whole blocks, each with its number."""
    k = torch.cat([rotate(k, number * FRAMES_PER_BLOCK) for number, k, _ in blocks], dim=2)
    v = torch.cat([v.float() for _, _, v in blocks], dim=2)
    return (q @ k.mT * HEAD_DIM**-0.5).softmax(-1) @ v


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_attention_sees_exactly_the_visible_blocks(policy: CachePolicy) -> None:
    generator = torch.Generator().manual_seed(0)
    cache = make_cache(policy, batch=2)
    history: list[list[tuple[int, Tensor, Tensor]]] = [[], []]
    for number in range(14):
        q = torch.randn(2, HEADS, 5, HEAD_DIM, generator=generator)
        assert cache.frames == number * FRAMES_PER_BLOCK
        for index in range(GEOMETRY.layers):
            cache.layer(index).stage(*random_block(generator, batch=2))
            # The next denoising step overwrites it.
            k, v = random_block(generator, batch=2)
            cache.layer(index).stage(k, v)
            blocks = [history[index][i] for i in visible(policy, number)] + [(number, k, v)]
            torch.testing.assert_close(
                attend(q, cache.layer(index), rotate), dense(q, blocks), atol=1e-5, rtol=1e-5
            )
            history[index].append((number, k, v))
        cache.commit()
        blocks = [history[0][i] for i in visible(policy, number + 1)]
        torch.testing.assert_close(attend(q, cache.layer(0), rotate), dense(q, blocks), atol=1e-5, rtol=1e-5)


def test_forty_spans() -> None:
    generator = torch.Generator().manual_seed(1)
    cache = make_cache(CachePolicy(every=1))
    history = []
    q = torch.randn(1, HEADS, 9, HEAD_DIM, generator=generator)
    for number in range(40):
        k, v = random_block(generator)
        history.append((number, k, v))
        for index in range(GEOMETRY.layers):
            cache.layer(index).stage(k, v)
        cache.commit()
        assert cache.stats().spans == number + 1
        torch.testing.assert_close(attend(q, cache.layer(1), rotate), dense(q, history), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_stats_count_every_byte_that_is_held(policy: CachePolicy) -> None:
    generator = torch.Generator().manual_seed(2)
    cache = make_cache(policy)
    for number in range(12):
        for index in range(GEOMETRY.layers):
            cache.layer(index).stage(*random_block(generator))
        cache.commit()
        stats = cache.stats()
        assert (stats.stored_bytes, stats.bf16_bytes) == cache_bytes(
            GEOMETRY, BF16, policy, number + 1, FRAMES_PER_BLOCK
        )
        assert stats.stored_bytes == sum(stats.parts.values())
        assert stats.frames == len(visible(policy, number + 1)) * FRAMES_PER_BLOCK
        assert stats.tokens == stats.frames * TOKENS_PER_FRAME
        assert stats.total_frames == (number + 1) * FRAMES_PER_BLOCK


def test_a_span_is_freed_once_all_its_blocks_are_out_of_the_window() -> None:
    policy = CachePolicy(every=3, window=4)
    cache = make_cache(policy)
    generator = torch.Generator().manual_seed(3)
    spans = []
    for _ in range(9):
        for index in range(GEOMETRY.layers):
            cache.layer(index).stage(*random_block(generator))
        cache.commit()
        spans.append(cache.stats().spans)
    assert spans == [0, 0, 1, 1, 1, 2, 1, 1, 2]


def test_reset_frees_and_starts_over() -> None:
    cache = make_cache(CachePolicy(every=2))
    generator = torch.Generator().manual_seed(4)
    layer = cache.layer(0)
    for _ in range(3):
        for index in range(GEOMETRY.layers):
            cache.layer(index).stage(*random_block(generator))
        cache.commit()
    cache.reset()
    stats = cache.stats()
    assert (stats.stored_bytes, stats.scratch_bytes, stats.total_frames, stats.ratio) == (0, 0, 0, 1.0)
    with pytest.raises(ValueError, match="nothing to attend to"):
        attend(torch.zeros(1, HEADS, 1, HEAD_DIM), layer)


def test_commit_needs_every_layer() -> None:
    cache = make_cache(CachePolicy())
    k, v = random_block(torch.Generator())
    cache.layer(0).stage(k, v)
    with pytest.raises(ValueError, match="layer 1 has nothing staged"):
        cache.commit()
    assert cache.frames == 0
    cache.layer(1).stage(k, v)
    cache.commit()
    with pytest.raises(ValueError, match="layer 0 has nothing staged"):
        cache.commit()


def test_only_whole_blocks_are_staged() -> None:
    layer = make_cache(CachePolicy()).layer(0)
    k, v = random_block(torch.Generator())
    with pytest.raises(ValueError, match=f"K has {BLOCK - 1} tokens, but a block is 3 whole frames of 7"):
        layer.stage(k[:, :, 1:], v)
    with pytest.raises(ValueError, match="V is"):
        layer.stage(k, v[:, :1])
    assert not layer.staged


def test_staging_in_inference_mode_and_committing_outside() -> None:
    cache = make_cache(CachePolicy(every=1, recent=1))
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        with torch.inference_mode():
            for index in range(GEOMETRY.layers):
                cache.layer(index).stage(*random_block(generator))
        cache.commit()
    assert cache.stats().spans == 2


def test_gradients_do_not_enter_the_cache() -> None:
    cache = make_cache(CachePolicy())
    k, v = (x.requires_grad_() for x in random_block(torch.Generator()))
    cache.layer(0).stage(k, v)
    assert not attend(k, cache.layer(0)).requires_grad


@pytest.mark.parametrize("policy", [*POLICIES, CachePolicy(every=2, device_bytes=0)], ids=str)
@pytest.mark.parametrize("preset", ["BF16", "QVG INT2"])
def test_a_snapshot_is_come_back_to_exactly_and_more_than_once(policy: CachePolicy, preset: str) -> None:
    geometry = CacheGeometry(layers=2, heads=HEADS, head_dim=64, tokens_per_frame=TOKENS_PER_FRAME)
    cache = KVCache(geometry, PRESETS[preset], policy, frames_per_block=FRAMES_PER_BLOCK)

    def grow(seed: int, blocks: int = 1) -> None:
        generator = torch.Generator().manual_seed(seed)
        for _ in range(blocks):
            for index in range(geometry.layers):
                k, v = torch.randn(2, 1, HEADS, BLOCK, 64, generator=generator).bfloat16()
                cache.layer(index).stage(k, v)
            cache.commit()

    def history() -> list[Tensor]:
        return [
            x.clone()
            for index in range(geometry.layers)
            for piece in cache.layer(index).pieces(torch.float32)
            for x in (torch.tensor(piece.first_frame), piece.k, piece.v)
        ]

    for before in (0, 1, 5, 6):
        cache.reset()
        grow(0, before)
        kept, frames, stored = history(), cache.frames, cache.stats().stored_bytes
        snapshot = cache.snapshot()
        recent = policy.layout(before).recent
        block_bytes = 2 * geometry.layers * HEADS * BLOCK * 64 * 2
        assert snapshot.copied_bytes == (len(recent) + min(before, policy.sink)) * block_bytes
        grow(1, 3)
        first = history()
        for seed in (2, 1):
            cache.restore(snapshot)
            assert (cache.frames, cache.stats().stored_bytes) == (frames, stored)
            assert all(torch.equal(x, y) for x, y in zip(history(), kept, strict=True))
            grow(seed, 3)
        # The same blocks after coming back make the same history.
        assert all(torch.equal(x, y) for x, y in zip(history(), first, strict=True))


def test_a_snapshot_has_a_history_given_whole_too() -> None:
    cache = make_cache(CachePolicy(every=2))
    generator = torch.Generator().manual_seed(0)

    def give(frames: int) -> None:
        for index in range(GEOMETRY.layers):
            k, v = torch.randn(
                2, 1, HEADS, frames * TOKENS_PER_FRAME, HEAD_DIM, generator=generator
            ).bfloat16()
            cache.layer(index).preload(k, v)
        cache.commit()

    give(5)
    snapshot, frames = cache.snapshot(), cache.frames
    kept = [piece.k.clone() for piece in cache.layer(0).pieces(torch.float32)]
    give(7)
    assert cache.frames == 7
    cache.restore(snapshot)
    assert cache.frames == frames == 5
    assert all(
        torch.equal(x, piece.k) for x, piece in zip(kept, cache.layer(0).pieces(torch.float32), strict=True)
    )
