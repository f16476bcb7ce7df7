"""Awkward sizes: however a history is cut up, attention is dense attention over what a plain list holds."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from qvg import (
    BF16,
    KIVI,
    QUAROT,
    QVG,
    QVG_MAX,
    QVG_PLUS,
    QVG_PRO,
    CacheGeometry,
    CachePolicy,
    KVCache,
    attend,
)
from qvg.codecs import build_codec
from qvg.codecs.base import Growth
from qvg.config import CodecConfig, Filled, SplitConfig
from qvg.growing import encode_part
from qvg.payload import GROWING, Payload, without_fine
from qvg.policy import cache_bytes, host_bytes, unused_bytes
from qvg.rope import Rope, grid_rope

HEAD_DIM = 64
CODECS: list[CodecConfig] = [
    BF16,
    replace(QVG, clusters=7, iterations=1),
    replace(QVG_PLUS, group=32, clusters=3, iterations=1),
    replace(QVG_PRO, stages=2, iterations=1),  # 256 clusters: more than some spans have tokens
    SplitConfig(k=replace(QVG_MAX.k, clusters=4), v=replace(QVG_MAX.v, clusters=4)),  # five tokens to a byte
    replace(KIVI, group=16),  # sixteen tokens to a scale
    QUAROT,
]


@dataclass(frozen=True)
class Draw:
    """A cache of odd sizes, and how many blocks it is given."""

    codec: CodecConfig
    policy: CachePolicy
    heads: int
    tokens_per_frame: int
    frames_per_block: int
    batch: int
    blocks: int

    @staticmethod
    def of(seed: int) -> Draw:
        draw = random.Random(seed)
        every, sink, recent = draw.randint(1, 5), draw.choice((0, 0, 1, 3)), draw.choice((0, 0, 1, 4))
        window = draw.choice((None, every + recent, every + recent + draw.randint(1, 4)))
        grows = bool(seed // len(CODECS) % 2)
        return Draw(
            CODECS[seed % len(CODECS)],
            CachePolicy(
                every,
                sink,
                recent,
                window,
                draw.choice((None, 0, 60_000)),
                grows=grows,
                fine=grows and draw.choice((False, True)),
            ),
            draw.randint(1, 3),
            draw.choice((1, 2, 5, 13)),
            draw.randint(1, 4),
            draw.randint(1, 2),
            draw.randint(1, 13),
        )

    def geometry(self) -> CacheGeometry:
        return CacheGeometry(1, self.heads, HEAD_DIM, self.tokens_per_frame)

    def random(self, generator: torch.Generator, blocks: int = 1) -> tuple[Tensor, Tensor]:
        tokens = blocks * self.frames_per_block * self.tokens_per_frame
        k, v = torch.randn(2, self.batch, self.heads, tokens, HEAD_DIM, generator=generator).bfloat16()
        return k, v

    def rope(self) -> Rope:
        return grid_rope(200, 1, self.tokens_per_frame, (12, 10, 10))


Block = tuple[int, Tensor, Tensor]  # first frame, keys and values as they are decoded


def remembered(draw: Draw, history: list[tuple[Tensor, Tensor]]) -> list[Block]:
    """What is visible after the blocks of `history`, by the words of `CachePolicy`, oldest first."""
    policy, blocks = draw.policy, [(k.float(), v.float()) for k, v in history]
    if policy.grows:
        for index, name in enumerate(("k", "v")):
            for number, block in enumerate(grown(draw, history, index, name), start=policy.sink):
                kept = list(blocks[number])
                kept[index] = block
                blocks[number] = (kept[0], kept[1])
        return visible(draw, blocks)
    last: list[object] = [None, None]
    first = policy.sink
    while first + policy.every + policy.recent <= len(history):
        span = slice(first, first + policy.every)
        for index, name in enumerate(("k", "v")):
            codec = build_codec(draw.codec, name)
            last[index] = codec.encode(
                torch.cat([block[index] for block in history[span]], dim=2), last[index]
            )
            decoded = codec.decode(last[index], torch.float32).chunk(policy.every, dim=2)
            for number, block in zip(range(span.start, span.stop), decoded, strict=True):
                kept = list(blocks[number])
                kept[index] = block
                blocks[number] = (kept[0], kept[1])
        first += policy.every
    return visible(draw, blocks)


def grown(draw: Draw, history: list[tuple[Tensor, Tensor]], index: int, name: str) -> list[Tensor]:
    """The encoded blocks, each decoded from what was made of it when it came, and never looked at again."""
    policy, codec = draw.policy, build_codec(draw.codec, name)
    alone: list[Payload] = []
    span = warm = None
    for number, block in enumerate(history[policy.sink : max(policy.sink, len(history) - policy.recent)]):
        x, place = block[index], number % policy.every
        if place == 0:
            span, warm = None, span
        fine = x.shape[2] if policy.fine else 0
        more = encode_part(codec, x, warm, Growth(Filled(place + 1, policy.every), span, fine))
        span = more if span is None else joined(span, more)
        alone.append(more)
    coarse = [*map(without_fine, alone[:-1]), *alone[-1:]]
    return [codec.decode(each, torch.float32) for each in coarse]


def joined(span: Payload, more: Payload) -> Payload:
    parts = {
        name: torch.cat([span.parts[name], part], GROWING[name]) if name in GROWING else part
        for name, part in more.parts.items()
    }
    return more.with_parts(parts)


def visible(draw: Draw, blocks: list[tuple[Tensor, Tensor]]) -> list[Block]:
    policy = draw.policy
    oldest = 0 if policy.window is None else len(blocks) - policy.window
    return [
        (number * draw.frames_per_block, k, v)
        for number, (k, v) in enumerate(blocks)
        if number < policy.sink or number >= oldest
    ]


def dense(q: Tensor, blocks: list[Block], rope: Rope) -> Tensor:
    k = torch.cat([rope(k, first_frame) for first_frame, k, _ in blocks], dim=2)
    v = torch.cat([v for _, _, v in blocks], dim=2)
    return (q @ k.mT * HEAD_DIM**-0.5).softmax(-1) @ v


@pytest.mark.parametrize("seed", range(28))
def test_any_sizes(seed: int) -> None:
    draw, generator = Draw.of(seed), torch.Generator().manual_seed(seed)
    rope = draw.rope()
    cache = KVCache(
        draw.geometry(), draw.codec, draw.policy, frames_per_block=draw.frames_per_block, batch=draw.batch
    )
    layer, history = cache.layer(0), []
    for number in range(draw.blocks):
        k, v = draw.random(generator)
        past = remembered(draw, history)
        own = (number * draw.frames_per_block, k.float(), v.float())
        q = torch.randn(draw.batch, draw.heads, 3, HEAD_DIM, generator=generator)
        # Given and not staged, then staged; rotated by the decoding, then by a function.
        given = attend(q, layer, rope, working=(k.float(), v.float()))
        layer.stage(k, v)
        for read in (
            given,
            attend(q, layer, rope),
            attend(q, layer, lambda k, first: rope(k.float(), first)),
        ):
            torch.testing.assert_close(read, dense(q, [*past, own], rope), atol=2e-5, rtol=2e-5)
        cache.commit()
        history.append((k, v))
        torch.testing.assert_close(
            attend(q, layer, rope), dense(q, remembered(draw, history), rope), atol=2e-5, rtol=2e-5
        )
        stats = cache.stats()
        sizes = (cache.geometry, draw.codec, draw.policy, number + 1, draw.frames_per_block, draw.batch)
        assert (stats.stored_bytes, stats.bf16_bytes) == cache_bytes(*sizes)
        assert stats.host_bytes == host_bytes(*sizes)[0]
        if not stats.host_bytes:
            # On a CPU nothing is decoded to scratch memory.
            assert stats.scratch_bytes == unused_bytes(*sizes)


@pytest.mark.parametrize("seed", range(14))
def test_rewritten_is_as_committed_but_for_where_k_means_starts(seed: int) -> None:
    draw = Draw.of(seed)
    generator = torch.Generator().manual_seed(seed)
    committed, rewritten = (
        KVCache(
            draw.geometry(), draw.codec, draw.policy, frames_per_block=draw.frames_per_block, batch=draw.batch
        )
        for _ in range(2)
    )
    k, v = draw.random(generator, draw.blocks)
    size = draw.frames_per_block * draw.tokens_per_frame
    for block in zip(k.split(size, dim=2), v.split(size, dim=2), strict=True):
        committed.layer(0).stage(*block)
        committed.commit()
    rewritten.rewrite(0, k, v)
    held, made = committed.stats(), rewritten.stats()
    assert (held.parts, held.frames, held.spans, held.host_bytes) == (
        made.parts,
        made.frames,
        made.spans,
        made.host_bytes,
    )
    exact = isinstance(draw.codec, type(BF16) | type(KIVI) | type(QUAROT))
    if exact or (draw.policy.window is None and not draw.policy.grows):
        # With a window the spans that are gone would have been started from, and a span that grows has other
        # centroids than one whose blocks all come at once.
        q = torch.randn(draw.batch, draw.heads, 3, HEAD_DIM, generator=generator)
        one, other = (attend(q, cache.layer(0), draw.rope()) for cache in (committed, rewritten))
        torch.testing.assert_close(one, other, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("device_bytes", [None, 100_000])
@pytest.mark.parametrize("frames_per_block", [1, 3])
def test_a_thousand_spans(frames_per_block: int, device_bytes: int | None) -> None:
    draw = Draw(BF16, CachePolicy(1, 1, 1, None, device_bytes), 1, 2, frames_per_block, 1, 1002)
    generator = torch.Generator().manual_seed(0)
    cache = KVCache(draw.geometry(), BF16, draw.policy, frames_per_block=frames_per_block)
    k, v = draw.random(generator, draw.blocks)
    size = frames_per_block * 2
    for block in zip(k.split(size, dim=2), v.split(size, dim=2), strict=True):
        cache.layer(0).stage(*block)
        cache.commit()
    stats = cache.stats()
    assert stats.spans == 1000
    assert (stats.host_bytes > 0) == (device_bytes is not None)
    rope = grid_rope(draw.blocks * frames_per_block, 1, 2, (12, 10, 10))
    q = torch.randn(1, 1, 3, HEAD_DIM, generator=generator)
    expected = dense(q, [(0, k.float(), v.float())], rope)
    torch.testing.assert_close(attend(q, cache.layer(0), rope), expected, atol=2e-5, rtol=2e-5)
