"""Measured videos: one video with one codec, its frames to a file, and its time and memory."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from backends.base import Backend, NonFiniteLatents, Request, Segment
from backends.bench import Case, fill
from backends.runtime.errors import is_out_of_memory
from backends.runtime.peak_memory import PeakMemory
from backends.runtime.session import free_memory
from backends.sizes import memory_size
from qvg import KVCache
from qvg.stats import CacheStats

Row = dict[str, Any]
WHOLE, DID_NOT_FIT, FAILED = "whole", "did not fit", "failed"


_NOTHING = CacheStats(
    stored_bytes=0, bf16_bytes=0, scratch_bytes=0, parts={}, frames=0, total_frames=0, tokens=0, spans=0,
    encode_ms=0.0, read_ms=0.0,
)  # fmt: skip


class _Figures:
    """Measurements of every block of a video."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._peak, self._process = PeakMemory(device), PeakMemory(torch.device("cpu"))
        self._blocks: list[dict[str, float]] = []  # milliseconds
        self._stats: list[CacheStats] = []
        self._frames: list[int] = []

    @property
    def blocks(self) -> int:
        return len(self._blocks)

    @property
    def held(self) -> int:
        """Returns the bytes of the cache after the last block."""
        return self._stats[-1].stored_bytes if self._stats else 0

    def add(self, segment: Segment, stats: CacheStats, ms: float) -> None:
        self._blocks.append({"block": ms, **segment.ms})
        self._stats.append(stats)
        self._frames.append(len(segment.frames) + (self._frames[-1] if self._frames else 0))

    def finish(self, last: CacheStats | None) -> Row:
        """Returns the row; `last` are the cache's figures after the device has finished all work."""
        last = last or _NOTHING
        on_gpu = self._device.type == "cuda"
        return {
            "blocks": self.blocks,
            "frames": self._frames[-1] if self._frames else 0,
            "frames_by_block": self._frames,
            "kv_bytes": [stats.stored_bytes for stats in self._stats],
            "bf16_bytes": [stats.bf16_bytes for stats in self._stats],
            "kv_parts": dict(last.parts),
            "host_bytes": last.host_bytes,
            "scratch_bytes": last.scratch_bytes,
            "ratio": round(last.ratio, 3),
            "peak_device_bytes": self._peak.read() if on_gpu else None,
            "peak_process_bytes": self._process.read(),
            "ms": {name: round(ms, 1) for name, ms in self._means(last).items()},
            "first_block_ms": round(self._blocks[0]["block"], 1) if self._blocks else None,
        }

    def _means(self, last: CacheStats) -> dict[str, float]:
        """Returns ms per block without the first, which also encodes the prompt and compiles kernels."""
        if not self._blocks:
            return {}
        later = self._blocks[1:] or self._blocks
        first = self._stats[0] if len(self._blocks) > 1 else None
        names = dict.fromkeys(name for block in later for name in block)
        means = {name: statistics.mean(block.get(name, 0.0) for block in later) for name in names}
        # A total over all blocks: a GPU reports the times of a block late.
        means["read"] = (last.read_ms - (first.read_ms if first else 0.0)) / len(later)
        means["encode"] = (last.encode_ms - (first.encode_ms if first else 0.0)) / len(later)
        return means


def make(
    backend: Backend,
    case: Case,
    request: Request,
    device: torch.device,
    keep: Callable[[np.ndarray], None],
    on_block: Callable[[int], None] = lambda block: None,
) -> Row:
    """Generates a video, passes the frames of each block to `keep`, and returns the measurements.

    Running out of memory, or frames that are not finite, end it early; `state` and `said` say so.
    """
    measured = _Figures(device)
    cache: KVCache | None = None
    state, said = WHOLE, ""
    try:
        cache = case.cache(backend, device)
        began = time.perf_counter()
        rollout = backend.open(request, cache, lambda step, steps: None)
        while (segment := rollout.step()) is not None:
            ms = 1e3 * (time.perf_counter() - began)
            # The rollout may have launched work for its next block: do not wait for it.
            measured.add(segment, cache.stats(wait=False), ms)
            keep(segment.frames)
            on_block(measured.blocks)
            began = time.perf_counter()
    except NonFiniteLatents as error:
        state, said = FAILED, str(error)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        said = f"Out of memory in block {measured.blocks + 1} of {request.blocks}"
        said += f", with {memory_size(measured.held)} of KV cache." if measured.held else "."
        state = DID_NOT_FIT
    row = {"state": state, "said": said, **measured.finish(cache.stats() if cache is not None else None)}
    rollout = segment = None
    if cache is not None:
        cache.reset()
    free_memory()
    return row


def not_made(said: str, device: torch.device) -> Row:
    """Returns the row of a video that was not begun, because it does not fit."""
    return {"state": DID_NOT_FIT, "said": said, **_Figures(device).finish(None)}


def warm(backend: Backend, case: Case, device: torch.device) -> None:
    """Compiles the encoding kernels, so that the first video's times are comparable to the others'."""
    if device.type != "cuda":
        return
    spec = backend.spec
    # One layer, and as many blocks as one encoded span takes.
    policy, _, length = spec.committed(case.policy, 2)
    geometry = dataclasses.replace(spec.geometry, layers=1)
    cache = KVCache(geometry, case.codec, policy, frames_per_block=length, device=device)
    fill(cache, policy.sink + policy.every + policy.recent)
    cache.reset()
    free_memory()


def described(row: Mapping[str, Any]) -> str:
    """Returns a line for the console."""
    if not row["kv_bytes"]:
        return str(row["said"])
    seconds = row["ms"]["block"] / 1e3
    text = f"{row['frames']} frames, {seconds:.2f} s a block, KV cache {memory_size(row['kv_bytes'][-1])}"
    text += f" ({row['ratio']:.2f}x smaller)" if row["ratio"] > 1.005 else ""
    return f"{text}. {row['said']}".strip()
