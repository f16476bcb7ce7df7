"""What a run will cost, before it starts. No torch here: the page asks at every change of a control."""

from __future__ import annotations

from dataclasses import dataclass, replace

from backends.base import BackendSpec
from backends.machine import DeviceInfo
from qvg.config import BF16, PRESETS, BF16Config, CodecConfig, PRQConfig
from qvg.policy import CachePolicy, cache_bytes

_GIB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The memory of one run. `kv_bytes` and `bf16_bytes` are what CacheStats will say after the last block.

    `needs_bytes` is the most held at any time: weights and activations, encoded history, and the room set
    aside for full-precision blocks. `fits` is None while the device is not known.
    """

    kv_bytes: int
    bf16_bytes: int
    needs_bytes: int
    fits: bool | None
    blocks_that_fit: int | None  # of those asked for; None while the device is not known
    sentence: str


def codec_for(spec: BackendSpec, preset: str) -> CodecConfig:
    """The preset called `preset`, with as many centroids as this generator's spans are worth."""
    config = PRESETS[preset]
    if isinstance(config, PRQConfig):
        return replace(config, clusters=min(config.clusters, spec.clusters))
    return config


def plan(
    spec: BackendSpec, codec: CodecConfig, policy: CachePolicy, blocks: int, device: DeviceInfo | None
) -> Plan:
    """What `blocks` blocks cost, and whether `device` can hold it."""
    kv_bytes, bf16_bytes = cache_bytes(spec.geometry, codec, policy, blocks, spec.latents_per_block)
    needs = spec.working_bytes + max(
        (_held(spec, codec, policy, block) for block in range(1, blocks + 1)), default=0
    )
    fits = lasts = None
    if device is not None:
        lasts = _blocks_that_fit(spec, codec, policy, blocks, device.memory_bytes)
        fits = lasts == blocks
    return Plan(
        kv_bytes=kv_bytes,
        bf16_bytes=bf16_bytes,
        needs_bytes=needs,
        fits=fits,
        blocks_that_fit=lasts,
        sentence=_sentence(spec, policy, blocks, needs, device, lasts),
    )


def in_words(memory_bytes: int) -> str:
    """`23.6 GiB`, or `640 MiB` below one."""
    return f"{memory_bytes / _GIB:.1f} GiB" if memory_bytes >= _GIB else f"{memory_bytes / 2**20:.0f} MiB"


def _held(spec: BackendSpec, codec: CodecConfig, policy: CachePolicy, blocks: int) -> int:
    """Bytes the cache holds after `blocks` blocks: spans, and room for every full-precision block."""
    layout = policy.layout(blocks)
    stored, _ = cache_bytes(spec.geometry, codec, policy, blocks, spec.latents_per_block)
    unused = policy.capacity - len(layout.sink) - len(layout.recent)
    return stored + unused * _block_bytes(spec)


def _block_bytes(spec: BackendSpec) -> int:
    geometry = spec.geometry
    tokens = spec.latents_per_block * geometry.tokens_per_frame
    return 2 * geometry.layers * BF16.stored_bytes(1, geometry.heads, tokens, geometry.head_dim)


def _blocks_that_fit(
    spec: BackendSpec, codec: CodecConfig, policy: CachePolicy, blocks: int, memory_bytes: int
) -> int:
    room = memory_bytes - spec.working_bytes
    for block in range(1, blocks + 1):
        if _held(spec, codec, policy, block) > room:
            return block - 1
    return blocks


def _sentence(
    spec: BackendSpec,
    policy: CachePolicy,
    blocks: int,
    needs: int,
    device: DeviceInfo | None,
    lasts: int | None,
) -> str:
    if device is None or lasts is None:
        return f"Needs {in_words(needs)}."
    home = "GPU" if device.kind == "cuda" else "machine"
    cost = f"Needs {in_words(needs)} of this {home}'s {in_words(device.memory_bytes)}"
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
