"""A memory budget for the KV cache, and what a codec must give up to stay inside it."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Literal, NamedTuple

from backends.base import BackendSpec
from backends.memory_plan import block_bytes, blocks_within, cache_after, held_bytes, most_bytes
from qvg.config import BF16, CodecConfig
from qvg.policy import CachePolicy

MIB = 1 << 20
WhenFull = Literal["drop", "stop"]
_SHORT = (4, 8)  # a window of this many spans wastes little of a tight budget


class Fate(NamedTuple):
    """How a side lives inside its budget.

    `ends_after`: blocks it can make, None for all. `drops_from`: the block (from 0) that is the first to miss
    history, None when nothing is ever dropped.
    """

    policy: CachePolicy
    ends_after: int | None = None
    drops_from: int | None = None


class TooSmall(ValueError):
    """Nothing can be made inside this budget; the message says what the least is."""


CARDS = {"24 GB card": 24_000_000_000, "32 GB card": 32_000_000_000}


def named(name: str, spec: BackendSpec) -> int:
    """MiB of the budgets worth a click: what a card has left for the cache, or 0 for no limit."""
    return max(1, (CARDS[name] - spec.working_bytes) // MIB) if name in CARDS else 0


def bf16_bytes(spec: BackendSpec, blocks: int) -> int:
    """What a whole history of `blocks` blocks takes in BF16."""
    return cache_after(spec, BF16, CachePolicy(every=1), blocks)[1]


def share_of(spec: BackendSpec, blocks: int, percent: int) -> int:
    """MiB that are so much of what BF16 would take; 0, no limit, for all of it."""
    return 0 if percent >= 100 else max(1, round(bf16_bytes(spec, blocks) * percent / 100 / MIB))


@lru_cache(maxsize=64)  # the page asks twice for every change of the form
def live_within(
    spec: BackendSpec,
    codec: CodecConfig,
    policy: CachePolicy,
    blocks: int,
    budget: int,
    when_full: WhenFull,
) -> Fate:
    """What happens to a side that may hold `budget` bytes. Raises TooSmall.

    A history that fits is kept as `policy` says. Otherwise the oldest frames are dropped, as few as possible,
    or the video ends while it still fits. The sinks of `policy` are kept.
    """
    if most_bytes(spec, codec, policy, blocks) <= budget:
        return Fate(policy)
    if spec.context_latents is not None:
        # It looks back on the same span whatever the policy says.
        raise TooSmall(
            f"what it looks back on does not fit: {_least(spec, most_bytes(spec, codec, policy, blocks))}"
        )
    if when_full == "stop":
        longest = max(
            _candidates(spec, policy, budget),
            key=lambda each: blocks_within(spec, codec, each, blocks, budget),
        )
        made = blocks_within(spec, codec, longest, blocks, budget)
        if not made:
            least = held_bytes(spec, codec, replace(policy, every=1), 1)
            raise TooSmall(f"not one block fits: {_least(spec, least)}")
        return Fate(longest, ends_after=None if made == blocks else made)
    widest = _widest(spec, codec, policy, blocks, budget)
    return Fate(widest, drops_from=first_miss(widest, blocks))


def first_miss(policy: CachePolicy, blocks: int) -> int | None:
    """The first of `blocks` blocks (from 0) that is made without all of history; None where none is."""
    missing = blocks if policy.window is None else policy.sink + policy.window + 1
    return missing if missing < blocks else None


def _widest(
    spec: BackendSpec, codec: CodecConfig, policy: CachePolicy, blocks: int, budget: int
) -> CachePolicy:
    """The policy that sees furthest back; of several, the one that encodes most blocks together."""
    room = max(1, budget // block_bytes(spec))
    best: CachePolicy | None = None
    for every in sorted(
        {1, 2, policy.every, *(max(1, min(policy.every, room // n)) for n in _SHORT)}, reverse=True
    ):
        whole = replace(policy, every=every, window=None)
        if most_bytes(spec, codec, whole, blocks) <= budget:
            return whole
        found = windowed(spec, codec, whole, blocks, budget)
        if found is not None and (best is None or (found.window or 0) > (best.window or 0)):
            best = found
    if best is None:
        smallest = replace(policy, every=1, window=1 + policy.recent)
        raise TooSmall(
            f"a window of one block does not fit: {_least(spec, most_bytes(spec, codec, smallest, blocks))}"
        )
    return best


def _candidates(spec: BackendSpec, policy: CachePolicy, budget: int) -> list[CachePolicy]:
    """`policy` without a window, and with fewer blocks encoded together: buffers for them take room too."""
    room = max(1, budget // block_bytes(spec))
    short = {max(1, min(policy.every, room // spans)) for spans in _SHORT}
    counts = sorted({1, min(2, policy.every), policy.every, *short}, reverse=True)
    return [replace(policy, every=every, window=None) for every in counts]


def windowed(
    spec: BackendSpec, codec: CodecConfig, policy: CachePolicy, blocks: int, budget: int
) -> CachePolicy | None:
    """`policy` with the widest window that fits; None when none does."""
    fits, too_wide = policy.every + policy.recent - 1, blocks
    while too_wide - fits > 1:
        middle = (fits + too_wide) // 2
        if most_bytes(spec, codec, replace(policy, window=middle), blocks) <= budget:
            fits = middle
        else:
            too_wide = middle
    return replace(policy, window=fits) if fits >= policy.every + policy.recent else None


def _least(spec: BackendSpec, count: int) -> str:
    return f"{spec.title} needs at least {-(-count // MIB):,} MiB"
