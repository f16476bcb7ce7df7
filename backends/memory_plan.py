"""Memory plans: the bytes of a run before it starts, whether a device has them, and what a budget costs.

No torch here: the page computes a plan again whenever a control changes.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from backends.base import BackendSpec
from backends.runtime import hardware
from backends.runtime.hardware import DeviceInfo
from backends.runtime.jobs import Side
from backends.sizes import file_size, memory_size
from qvg.config import BF16, PRESETS, BF16Config, CodecConfig, with_clusters
from qvg.policy import CachePolicy, cache_bytes, host_bytes, unused_bytes

MIB = 1 << 20
WhenFull = Literal["drop", "stop"]
_SHORT = (4, 8)  # a window of this many spans wastes little of a tight budget


class BudgetTooSmall(ValueError):
    """Raised if no video fits the budget; the message says how much is needed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The memory of one side of a run, in bytes.

    `kv_bytes` and `bf16_bytes` are those of CacheStats after the last block. `needs_bytes` is the peak:
    weights, activations, encoded history, and buffers for full-precision blocks, whose sizes `parts` names;
    or the text encoder and the weights, before the first block. `host_bytes` of the history are in CPU memory
    instead. `fits` is None while the device is unknown; CPU memory is not checked. `loading` says how much
    CPU memory and disk space loading to a GPU takes, and is empty if that is little.
    """

    kv_bytes: int
    bf16_bytes: int
    needs_bytes: int
    parts: tuple[tuple[str, int], ...]
    fits: bool | None
    blocks_that_fit: int | None  # of the requested ones; None while the device is unknown
    sentence: str
    host_bytes: int = 0
    loading: str = ""


def codec_for(spec: BackendSpec, preset: str) -> CodecConfig:
    """Returns the preset named `preset`, with the number of centroids that suits the model's spans."""
    return with_clusters(PRESETS[preset], spec.clusters)


def plan(
    spec: BackendSpec, codec: CodecConfig, policy: CachePolicy, blocks: int, device: DeviceInfo | None
) -> Plan:
    """Returns the memory plan of `blocks` blocks, and whether `device` has that memory."""
    if device is not None and device.kind == "cpu":
        # The device's memory is CPU memory: nothing is offloaded.
        policy = replace(policy, device_bytes=None)
    kv_bytes, bf16_bytes = cache_after(spec, codec, policy, blocks)
    cache_peak = most_bytes(spec, codec, policy, blocks)
    needs = max(spec.working_bytes + cache_peak, _prompt_bytes(spec, device))
    fits = max_blocks = None
    if device is not None:
        max_blocks = blocks_within(spec, codec, policy, blocks, room_for_cache(spec, device))
        fits = max_blocks == blocks
    sentence = _sentence(spec, policy, blocks, needs, device, max_blocks)
    on_host, _ = _host_bytes(spec, codec, policy, max_blocks or blocks)
    if on_host:
        sentence += f" Keeps {memory_size(on_host)} of history in the host's memory."
    elif max_blocks == blocks and not isinstance(codec, BF16Config):
        sentence += _without_codec(spec, policy, blocks, needs, device)
    return Plan(
        kv_bytes=kv_bytes,
        bf16_bytes=bf16_bytes,
        needs_bytes=needs,
        parts=(*(spec.memory or (("model", spec.working_bytes),)), ("KV cache", cache_peak)),
        fits=fits,
        blocks_that_fit=max_blocks,
        sentence=sentence,
        host_bytes=on_host,
        loading=_loading(spec, device),
    )


def most_bytes(spec: BackendSpec, codec: CodecConfig, policy: CachePolicy, blocks: int) -> int:
    """Returns the most bytes in a cache at any time of a video of `blocks` blocks.

    The bytes grow as blocks are encoded, until a window begins to drop spans, and repeat from there on with
    every span: the maximum is after one of the last blocks, as many as a span has.
    """
    last = range(max(1, blocks - policy.every + 1), blocks + 1)
    return max((held_bytes(spec, codec, policy, made) for made in last), default=0)


def held_bytes(spec: BackendSpec, codec: CodecConfig, policy: CachePolicy, blocks: int) -> int:
    """Returns the bytes of a cache after `blocks` blocks: spans, and buffers for what comes."""
    stored, _ = cache_after(spec, codec, policy, blocks)
    on_host, to_read_it = _host_bytes(spec, codec, policy, blocks)
    stored += to_read_it - on_host
    if spec.history.grows:
        stored += unused_bytes(spec.geometry, codec, policy, blocks, spec.latents_per_block)
    return stored


def cache_after(spec: BackendSpec, codec: CodecConfig, policy: CachePolicy, blocks: int) -> tuple[int, int]:
    """Returns (stored_bytes, bf16_bytes) of a cache after `blocks` blocks, as CacheStats counts them."""
    return cache_bytes(spec.geometry, codec, *spec.committed(policy, blocks))


def bf16_bytes(spec: BackendSpec, blocks: int) -> int:
    """Returns the bytes of all `blocks` blocks of history in BF16, without a window or a budget."""
    return cache_after(spec, BF16, CachePolicy(every=1), blocks)[1]


def block_bytes(spec: BackendSpec) -> int:
    """Returns the bytes of one block's keys and values in BF16, all layers."""
    geometry = spec.geometry
    tokens = spec.latents_per_block * geometry.tokens_per_frame
    return 2 * geometry.layers * BF16.stored_bytes(1, geometry.heads, tokens, geometry.head_dim)


def blocks_within(
    spec: BackendSpec, codec: CodecConfig, policy: CachePolicy, blocks: int, room_bytes: int
) -> int:
    """Returns how many of `blocks` blocks can be generated before the cache exceeds `room_bytes`."""
    return bisect_right(
        range(1, blocks + 1), room_bytes, key=lambda made: most_bytes(spec, codec, policy, made)
    )


def room_for_cache(spec: BackendSpec, device: DeviceInfo) -> int:
    """Returns the bytes that `device` has for KV caches; negative if weights and activations do not fit."""
    return device.memory_bytes - spec.working_bytes


@lru_cache(maxsize=64)  # the page computes the same plan twice for every change of the form
def fit_budget(spec: BackendSpec, side: Side, blocks: int, budget: int, when_full: WhenFull) -> Side:
    """Returns `side` with a policy whose cache stays within `budget` bytes for `blocks` blocks.

    The policy stays as it is if it fits. Otherwise as few of the oldest blocks as possible are dropped, but
    no sinks; or, with "stop", the video ends before the budget is exceeded. Raises BudgetTooSmall.
    """
    codec, policy = side.codec, side.policy
    if most_bytes(spec, codec, policy, blocks) <= budget:
        return side
    if not spec.history.grows:
        # The context window has a fixed length, whatever the policy says.
        raise BudgetTooSmall(
            f"what it looks back on does not fit: {_needs(spec, most_bytes(spec, codec, policy, blocks))}"
        )
    if when_full == "stop":
        # Spans longer than `every` must be worth it.
        longest = max(
            _candidates(spec, policy, budget),
            key=lambda each: (blocks_within(spec, codec, each, blocks, budget), each.every <= policy.every),
        )
        ends_after = blocks_within(spec, codec, longest, blocks, budget)
        if not ends_after:
            least = held_bytes(spec, codec, replace(policy, every=1), 1)
            raise BudgetTooSmall(f"not one block fits: {_needs(spec, least)}")
        return replace(side, policy=longest, ends_after=None if ends_after == blocks else ends_after)
    widest = _widest(spec, codec, policy, blocks, budget)
    return replace(side, policy=widest, drops_from=first_miss(widest, blocks))


def fit_longer(
    spec: BackendSpec, side: Side, made: int, blocks: int, budget: int, when_full: WhenFull
) -> Side:
    """Returns `side`, of which `made` blocks exist, fitted to `budget` bytes (0: any) for `blocks` blocks.

    The existing blocks must have been generated as the returned side says. Raises BudgetTooSmall, with the
    side's name, if the longer video would have needed another policy from the start.
    """
    policy = side.policy
    if not budget or most_bytes(spec, side.codec, policy, blocks) <= budget:
        return replace(side, drops_from=first_miss(policy, blocks))
    if when_full == "stop":
        ends_after = blocks_within(spec, side.codec, policy, blocks, budget)
        return replace(side, ends_after=ends_after, drops_from=None)
    fitting = _windowed(spec, side.codec, replace(policy, window=None), blocks, budget)
    # A window wider than what exists has not dropped anything yet.
    if policy.window is not None or fitting is None or (fitting.window or 0) + fitting.sink < made:
        raise BudgetTooSmall(side.name)
    return replace(side, policy=fitting, ends_after=None, drops_from=first_miss(fitting, blocks))


def first_miss(policy: CachePolicy, blocks: int) -> int | None:
    """Returns the first of `blocks` blocks (from 0) generated without the whole history; None if none is."""
    missing = blocks if policy.window is None else policy.sink + policy.window + 1
    return missing if missing < blocks else None


def _widest(
    spec: BackendSpec, codec: CodecConfig, policy: CachePolicy, blocks: int, budget: int
) -> CachePolicy:
    """Returns the policy that reads furthest back; of several, the one that encodes most blocks together."""
    best: CachePolicy | None = None
    for whole in _candidates(spec, policy, budget):
        if most_bytes(spec, codec, whole, blocks) <= budget:
            return whole
        found = _windowed(spec, codec, whole, blocks, budget)
        if found is not None and (best is None or (found.window or 0) > (best.window or 0)):
            best = found
    if best is None:
        smallest = replace(policy, every=1, window=1 + policy.recent)
        raise BudgetTooSmall(
            "a window of one block does not fit: " + _needs(spec, most_bytes(spec, codec, smallest, blocks))
        )
    return best


def _candidates(spec: BackendSpec, policy: CachePolicy, budget: int) -> list[CachePolicy]:
    """Returns `policy` without a window, and with other numbers of blocks encoded together, largest first.

    Fewer blocks need smaller buffers, but single blocks need much space for their centroids.
    """
    room = max(1, budget // block_bytes(spec))
    short = {max(1, min(policy.every, room // spans)) for spans in _SHORT}
    counts = sorted({1, 2, policy.every, *short}, reverse=True)
    return [replace(policy, every=every, window=None) for every in counts]


def _windowed(
    spec: BackendSpec, codec: CodecConfig, policy: CachePolicy, blocks: int, budget: int
) -> CachePolicy | None:
    """Returns `policy` with the widest window that fits; None if none does."""
    fits, too_wide = policy.shortest_window - 1, blocks
    while too_wide - fits > 1:
        middle = (fits + too_wide) // 2
        if most_bytes(spec, codec, replace(policy, window=middle), blocks) <= budget:
            fits = middle
        else:
            too_wide = middle
    return replace(policy, window=fits) if fits >= policy.shortest_window else None


def _needs(spec: BackendSpec, count: int) -> str:
    return f"{spec.title} needs at least {-(-count // MIB):,} MiB"


def _host_bytes(spec: BackendSpec, codec: CodecConfig, policy: CachePolicy, blocks: int) -> tuple[int, int]:
    """Returns the bytes of the history in CPU memory, and those on the device to read it through."""
    if policy.device_bytes is None:
        return 0, 0
    return host_bytes(spec.geometry, codec, *spec.committed(policy, blocks))


def _prompt_bytes(spec: BackendSpec, device: DeviceInfo | None) -> int:
    """Returns the bytes in use while the prompt is encoded; 0 if a CPU does that for a small GPU."""
    if device is not None and (device.kind != "cuda" or spec.prompt_bytes > device.memory_bytes):
        return 0
    return spec.prompt_bytes


def _loading(spec: BackendSpec, device: DeviceInfo | None) -> str:
    """Returns a sentence: how much CPU memory and disk space loading takes; empty if that is little."""
    if not spec.loading_bytes or (device is not None and device.kind != "cuda"):
        return ""
    needs = spec.loading_bytes
    if device is not None and not _prompt_bytes(spec, device):
        needs += spec.encoder_bytes
    ram = hardware.ram_bytes()
    sentence = f"Loading needs about {file_size(needs)} of RAM"
    if spec.converted_bytes:
        sentence += f" and, the first time, {file_size(spec.converted_bytes)} of disk for a copy in BF16"
    if 0 < ram < needs:
        sentence += f"; this machine has {file_size(ram)} of RAM: close other programs, and add swap"
    return f"{sentence}."


def _without_codec(
    spec: BackendSpec, policy: CachePolicy, blocks: int, needs: int, device: DeviceInfo | None
) -> str:
    """Returns a sentence: what the same run would need in BF16; empty if that is no more."""
    most = spec.working_bytes + most_bytes(spec, BF16, policy, blocks)
    if device is None or most <= needs:
        return ""
    cost = f" BF16 would need {memory_size(most)}"
    max_blocks = blocks_within(spec, BF16, policy, blocks, room_for_cache(spec, device))
    if max_blocks == blocks:
        return f"{cost}."
    return f"{cost} and run out at frame {spec.video_frames(max_blocks) + 1:,}."


def _sentence(
    spec: BackendSpec,
    policy: CachePolicy,
    blocks: int,
    needs: int,
    device: DeviceInfo | None,
    max_blocks: int | None,
) -> str:
    if device is None or max_blocks is None:
        return f"Needs {memory_size(needs)}."
    home = "GPU" if device.kind == "cuda" else "machine"
    room = room_for_cache(spec, device)
    cost = f"Needs {memory_size(needs)} of this {home}'s {memory_size(device.memory_bytes)}"
    if max_blocks == blocks:
        return f"{cost}: fits."
    if max_blocks == 0:
        return f"{cost}: {spec.title} does not fit here at any length."
    for preset, config in PRESETS.items():
        if not isinstance(config, BF16Config):
            codec = codec_for(spec, preset)
            if blocks_within(spec, codec, policy, blocks, room) == blocks:
                way_out = f"{preset} fits"
                break
    else:
        way_out = f"{max_blocks} blocks fit"
    return f"{cost}: would run out at frame {spec.video_frames(max_blocks) + 1:,}; {way_out}."
