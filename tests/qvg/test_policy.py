"""Which blocks are where, against a block-by-block account of the rules. No torch."""

from __future__ import annotations

import pickle

import pytest

from qvg.config import BF16, QVG, CacheGeometry
from qvg.policy import CachePolicy, cache_bytes, host_bytes
from qvg.stats import CacheStats

POLICIES = [
    CachePolicy(
        every=every,
        sink=sink,
        recent=recent,
        window=window and (1 if grows else every) + recent + window - 1,
        grows=grows,
    )
    for grows in (False, True)
    for every in (1, 3)
    for sink in (0, 2)
    for recent in (0, 2)
    for window in (None, 1, 4)
]


def play(policy: CachePolicy, commits: int) -> tuple[list[list[int]], list[int], list[int]]:
    """(spans, sinks, waiting) after `commits`, by following the rules one commit at a time."""
    spans: list[list[int]] = []
    sinks: list[int] = []
    waiting: list[int] = []
    for block in range(commits):
        (sinks if block < policy.sink else waiting).append(block)
        if policy.grows and len(waiting) > policy.recent:
            first = waiting.pop(0)
            if (first - policy.sink) % policy.every == 0:
                spans.append([])
            spans[-1].append(first)
        elif not policy.grows and len(waiting) - policy.recent >= policy.every:
            spans.append(waiting[: policy.every])
            waiting = waiting[policy.every :]
        if policy.window is not None:
            spans = [span for span in spans if span[-1] > block - policy.window]
    return spans, sinks, waiting


@pytest.mark.parametrize("policy", POLICIES, ids=str)
def test_layout_follows_the_rules(policy: CachePolicy) -> None:
    encoded = 0
    for commits in range(30):
        spans, sinks, waiting = play(policy, commits)
        layout = policy.layout(commits)
        assert [list(span) for span in layout.spans] == spans
        assert (list(layout.sink), list(layout.recent)) == (sinks, waiting)
        oldest = 0 if policy.window is None else commits - policy.window
        seen = [block for block in range(commits) if block < policy.sink or block >= oldest]
        assert layout.visible_blocks == len(seen)
        assert len(sinks) + len(waiting) <= policy.capacity
        due = policy.due(commits, encoded)
        if due is not None:
            assert list(due) == spans[-1][-policy.together :]
            assert policy.span_of(due.start).start == spans[-1][0]
            encoded += len(due)


def test_due_waits_for_whole_spans_beyond_the_recent() -> None:
    policy = CachePolicy(every=2, sink=1, recent=1)
    assert [policy.due(committed, 0) for committed in range(6)] == [None] * 4 + [range(1, 3)] * 2
    assert policy.due(5, 2) is None
    assert policy.due(6, 2) == range(3, 5)
    growing = CachePolicy(every=2, sink=1, recent=1, grows=True)
    assert [growing.due(committed, 0) for committed in range(4)] == [None] * 3 + [range(1, 2)]
    assert growing.due(4, 1) == range(2, 3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"every": 0}, "every=0"),
        ({"sink": -1}, "sink=-1"),
        ({"recent": -1}, "recent=-1"),
        ({"device_bytes": -1}, "device_bytes=-1 must be 0"),
        ({"attention_bits": 4}, "attention_bits=4 must be 16, or 8"),
        ({"every": 4, "recent": 1, "window": 4}, "window=4 blocks is shorter than every"),
    ],
)
def test_impossible_policies_are_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CachePolicy(**options)


def test_forecast_by_hand() -> None:
    geometry = CacheGeometry(layers=3, heads=2, head_dim=64, tokens_per_frame=10)
    policy = CachePolicy(every=2, sink=1, recent=1)
    block = 3 * 2 * (2 * 4 * 10 * 64 * 2)  # layers, K and V, heads, frames, tokens, channels, bytes
    span = 3 * 2 * QVG.stored_bytes(1, 2, 2 * 4 * 10, 64)
    assert cache_bytes(geometry, QVG, policy, 0, 4) == (0, 0)
    assert cache_bytes(geometry, QVG, policy, 3, 4) == (3 * block, 3 * block)
    # After 7: a sink, spans 1-2 and 3-4, and 5 and 6 waiting.
    assert cache_bytes(geometry, QVG, policy, 7, 4) == (3 * block + 2 * span, 7 * block)


def test_what_goes_to_the_host_by_hand() -> None:
    geometry = CacheGeometry(layers=3, heads=2, head_dim=64, tokens_per_frame=10)
    span = 2 * QVG.stored_bytes(1, 2, 2 * 4 * 10, 64)  # K and V of a layer

    def away(device_bytes: int | None, blocks: int = 7) -> tuple[int, int]:
        policy = CachePolicy(every=2, sink=1, recent=1, device_bytes=device_bytes)
        return host_bytes(geometry, QVG, policy, blocks, 4)

    # After 7: spans 1-2 and 3-4. What they are copied to when they are read has room for two of a layer.
    assert away(None) == away(6 * span) == away(0, blocks=3) == (0, 0)
    assert away(6 * span - 1) == away(3 * span) == (3 * span, 2 * span)
    assert away(3 * span - 1) == away(0) == (6 * span, 2 * span)


def test_the_newest_stay_on_the_device() -> None:
    policy = CachePolicy(device_bytes=2 * 100)  # of two layers
    assert [policy.on_device(sizes, 2) for sizes in ([], [101], [60, 41], [60, 40, 1], [0, 0])] == [
        0,
        0,
        1,
        2,
        2,
    ]
    assert CachePolicy().on_device([1 << 50] * 3, 2) == 3


def test_stats_are_a_value() -> None:
    stats = CacheStats(
        stored_bytes=10,
        bf16_bytes=65,
        scratch_bytes=0,
        parts={"codes": 10},
        frames=1,
        total_frames=1,
        tokens=7,
        spans=1,
        encode_ms=0.0,
        read_ms=0.0,
        host_bytes=7,
    )
    assert pickle.loads(pickle.dumps(stats)) == stats
    assert stats.ratio == 6.5
    assert stats.device_bytes == 3
    assert cache_bytes(CacheGeometry(1, 1, 8, 1), BF16, CachePolicy(), 3, 1) == (96, 96)
