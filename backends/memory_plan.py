"""What a run will cost, before it starts. No torch here: the page asks at every change of a control."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace

from backends.base import BackendSpec
from backends.runtime import hardware
from backends.runtime.hardware import DeviceInfo
from backends.sizes import file_size, memory_size
from qvg.config import BF16, PRESETS, BF16Config, CodecConfig, with_clusters
from qvg.policy import CachePolicy, cache_bytes, host_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The memory of one run. `kv_bytes` and `bf16_bytes` are what CacheStats will say after the last block.

    `needs_bytes` is the most held at any time: weights and activations, encoded history, and the room set
    aside for full-precision blocks; or the text encoder and the weights, before the first block. `parts` say
    what it is made of while blocks are made. `host_bytes` of history are beside it, in the host's memory.
    `fits` is None while the device is not known; whether the host has that memory is not asked. `loading`
    says what the way to a GPU takes of the host's memory and disk; it is empty where that is little.
    """

    kv_bytes: int
    bf16_bytes: int
    needs_bytes: int
    parts: tuple[tuple[str, int], ...]
    fits: bool | None
    blocks_that_fit: int | None  # of those asked for; None while the device is not known
    sentence: str
    host_bytes: int = 0
    loading: str = ""


def codec_for(spec: BackendSpec, preset: str) -> CodecConfig:
    """The preset called `preset`, with as many centroids as this generator's spans are worth."""
    return with_clusters(PRESETS[preset], spec.clusters)


def plan(
    spec: BackendSpec, codec: CodecConfig, policy: CachePolicy, blocks: int, device: DeviceInfo | None
) -> Plan:
    """What `blocks` blocks cost, and whether `device` can hold it."""
    if device is not None and device.kind == "cpu":
        # The host's memory is what is asked about.
        policy = replace(policy, device_bytes=None)
    kv_bytes, bf16_bytes = cache_after(spec, codec, policy, blocks)
    held = most_bytes(spec, codec, policy, blocks)
    needs = max(spec.working_bytes + held, _prompt_bytes(spec, device))
    fits = lasts = None
    if device is not None:
        lasts = _blocks_that_fit(spec, codec, policy, blocks, device.memory_bytes)
        fits = lasts == blocks
    sentence = _sentence(spec, policy, blocks, needs, device, lasts)
    on_host, _ = _host_bytes(spec, codec, policy, lasts or blocks)
    if on_host:
        sentence += f" Keeps {memory_size(on_host)} of history in the host's memory."
    elif lasts == blocks and not isinstance(codec, BF16Config):
        sentence += _without(spec, policy, blocks, needs, device)
    return Plan(
        kv_bytes=kv_bytes,
        bf16_bytes=bf16_bytes,
        needs_bytes=needs,
        parts=(*(spec.memory or (("model", spec.working_bytes),)), ("KV cache", held)),
        fits=fits,
        blocks_that_fit=lasts,
        sentence=sentence,
        host_bytes=on_host,
        loading=_loading(spec, device),
    )


def most_bytes(spec: BackendSpec, codec: CodecConfig, policy: CachePolicy, blocks: int) -> int:
    """Returns the most bytes a cache holds at any time of a video of `blocks` blocks.

    What it holds follows from the number of its spans. That grows as spans are encoded, until a window begins
    to drop others, and repeats from there on: it is largest when the last span was encoded.
    """
    waiting = blocks - policy.sink - policy.recent
    last_encoded = blocks - waiting % policy.every if waiting >= policy.every else blocks
    return held_bytes(spec, codec, policy, last_encoded) if blocks else 0


def _prompt_bytes(spec: BackendSpec, device: DeviceInfo | None) -> int:
    """Held while a prompt is read. On a GPU too small for the text encoder the CPU reads it."""
    if device is not None and (device.kind != "cuda" or spec.prompt_bytes > device.memory_bytes):
        return 0
    return spec.prompt_bytes


def _loading(spec: BackendSpec, device: DeviceInfo | None) -> str:
    if not spec.loading_bytes or (device is not None and device.kind != "cuda"):
        return ""
    needs = spec.loading_bytes
    if device is not None and not _prompt_bytes(spec, device):
        needs += spec.encoder_bytes
    ram = hardware.ram_bytes()
    said = f"Loading needs about {file_size(needs)} of RAM"
    if spec.converted_bytes:
        said += f" and, the first time, {file_size(spec.converted_bytes)} of disk for a copy in BF16"
    if 0 < ram < needs:
        said += f"; this machine has {file_size(ram)} of RAM: close other programs, and add swap"
    return f"{said}."


def held_bytes(spec: BackendSpec, codec: CodecConfig, policy: CachePolicy, blocks: int) -> int:
    """Bytes the cache holds after `blocks` blocks: spans, and room for every full-precision block."""
    stored, _ = cache_after(spec, codec, policy, blocks)
    on_host, to_read_it = _host_bytes(spec, codec, policy, blocks)
    stored += to_read_it - on_host
    if spec.context_latents is not None:
        return stored
    layout = policy.layout(blocks)
    unused = policy.capacity - len(layout.sink) - len(layout.recent)
    return stored + unused * block_bytes(spec)


def cache_after(spec: BackendSpec, codec: CodecConfig, policy: CachePolicy, blocks: int) -> tuple[int, int]:
    """(stored_bytes, bf16_bytes) after `blocks` blocks."""
    return cache_bytes(spec.geometry, codec, *_history(spec, policy, blocks))


def _host_bytes(spec: BackendSpec, codec: CodecConfig, policy: CachePolicy, blocks: int) -> tuple[int, int]:
    """What of it is in the host's memory, and what it takes of the device's to read that."""
    return host_bytes(spec.geometry, codec, *_history(spec, policy, blocks))


def _history(spec: BackendSpec, policy: CachePolicy, blocks: int) -> tuple[CachePolicy, int, int]:
    """Policy, number and length of the blocks that are remembered after `blocks` blocks."""
    if spec.context_latents is None:
        return policy, blocks, spec.latents_per_block
    return CachePolicy(every=1, device_bytes=policy.device_bytes), min(blocks - 1, 1), spec.context_latents


def block_bytes(spec: BackendSpec) -> int:
    """Keys and values of one block in BF16, all layers."""
    geometry = spec.geometry
    tokens = spec.latents_per_block * geometry.tokens_per_frame
    return 2 * geometry.layers * BF16.stored_bytes(1, geometry.heads, tokens, geometry.head_dim)


def blocks_within(
    spec: BackendSpec, codec: CodecConfig, policy: CachePolicy, blocks: int, room_bytes: int
) -> int:
    """Returns how many of `blocks` blocks can be made before the cache holds more than `room_bytes`."""
    return bisect_right(
        range(1, blocks + 1), room_bytes, key=lambda made: most_bytes(spec, codec, policy, made)
    )


def _blocks_that_fit(
    spec: BackendSpec, codec: CodecConfig, policy: CachePolicy, blocks: int, memory_bytes: int
) -> int:
    return blocks_within(spec, codec, policy, blocks, memory_bytes - spec.working_bytes)


def _without(
    spec: BackendSpec, policy: CachePolicy, blocks: int, needs: int, device: DeviceInfo | None
) -> str:
    """What the same run would take if nothing were encoded; empty where that is no more."""
    most = spec.working_bytes + most_bytes(spec, BF16, policy, blocks)
    if device is None or most <= needs:
        return ""
    cost = f" BF16 would need {memory_size(most)}"
    lasts = _blocks_that_fit(spec, BF16, policy, blocks, device.memory_bytes)
    if lasts == blocks:
        return f"{cost}."
    return f"{cost} and run out at frame {spec.video_frames(lasts) + 1:,}."


def _sentence(
    spec: BackendSpec,
    policy: CachePolicy,
    blocks: int,
    needs: int,
    device: DeviceInfo | None,
    lasts: int | None,
) -> str:
    if device is None or lasts is None:
        return f"Needs {memory_size(needs)}."
    home = "GPU" if device.kind == "cuda" else "machine"
    cost = f"Needs {memory_size(needs)} of this {home}'s {memory_size(device.memory_bytes)}"
    if lasts == blocks:
        return f"{cost}: fits."
    if lasts == 0:
        return f"{cost}: {spec.title} does not fit here at any length."
    for preset, config in PRESETS.items():
        if not isinstance(config, BF16Config):
            codec = codec_for(spec, preset)
            if _blocks_that_fit(spec, codec, policy, blocks, device.memory_bytes) == blocks:
                way_out = f"{preset} fits"
                break
    else:
        way_out = f"{lasts} blocks fit"
    return f"{cost}: would run out at frame {spec.video_frames(lasts) + 1:,}; {way_out}."
