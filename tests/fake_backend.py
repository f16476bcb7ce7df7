"""A generator for tests: a real Backend on a tiny real KVCache, told how to behave by its prompt.

`delay=0.2` seconds a denoising step, `raise=2` / `oom=2` / `kill=2` / `freeze=2` / `hang=2` in that block
(from 0), `big=1` for 16 MiB of frames a block. Its frames depend on the seed and on what the cache gives
back.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

from backends.base import Backend, BackendSpec, BackendUnavailable, Request, Rollout, Segment, Tick
from backends.camera import CameraMove
from qvg.attention import attend
from qvg.cache import KVCache
from qvg.config import CacheGeometry
from qvg.policy import CachePolicy

STEPS = 4
SPEC = BackendSpec(
    id="fake",
    title="Fake",
    summary="Noise, for tests.",
    needs="Nothing.",
    license="Apache-2.0",
    inputs=frozenset({"prompt", "image", "camera"}),
    width=16,
    height=16,
    fps=8,
    latents_per_block=2,
    frames_per_block=8,
    first_block_frames=5,
    default_blocks=3,
    max_blocks=400,
    resumable=True,
    weights_bytes=1,
    working_bytes=1,
    geometry=CacheGeometry(layers=2, heads=1, head_dim=64, tokens_per_frame=4),
    policy=CachePolicy(every=2),
)
OTHER = "other"  # a second id, to switch generators


def load(backend_id: str, device: torch.device, on_status: Callable[[str], None]) -> Backend:
    on_status(f"Loading {backend_id}.")
    if backend_id == "absent":
        raise BackendUnavailable("Fake cannot run here. Nothing was downloaded.")
    if backend_id not in (SPEC.id, OTHER):
        raise RuntimeError(f"broken weights of {backend_id}")
    return FakeBackend(backend_id)


class FakeBackend:
    """Counts caches that were opened and not yet reset, so that two runs at once are noticed."""

    spec = SPEC

    def __init__(self, backend_id: str = SPEC.id) -> None:
        self.backend_id = backend_id
        self.last: KVCache | None = None

    def open(self, request: Request, cache: KVCache, tick: Tick) -> Rollout:
        if self.last is not None and self.last.frames:
            raise RuntimeError("the last run's cache has not been released")
        self.last = cache
        return FakeRollout(request, cache, tick, self.backend_id)


class FakeRollout:
    def __init__(self, request: Request, cache: KVCache, tick: Tick, backend_id: str) -> None:
        self._orders = dict(word.split("=") for word in request.prompt.split() if "=" in word)
        self._request, self._cache, self._tick = request, cache, tick
        self._noise = torch.Generator().manual_seed(request.seed)
        self._index = self._start = 0
        self.notes = (f"made by {backend_id}", f"process {os.getpid()}")

    def step(self, move: CameraMove | None = None) -> Segment | None:
        if self._index == self._request.blocks:
            return None
        for step in range(STEPS):
            self._tick(step, STEPS)
            time.sleep(float(self._orders.get("delay", 0)))
        self._misbehave()
        heard = self._remember()
        first, later = SPEC.first_block_frames or SPEC.frames_per_block, SPEC.frames_per_block
        count = later if self._index else first
        side = 836 if "big" in self._orders else 16
        frames = torch.randint(0, 256, (count, side, side, 3), generator=self._noise, dtype=torch.uint8)
        frames[:, 0, 0, 0] = int(heard * 255)
        segment = Segment(frames.numpy(), self._index, self._start, SPEC.fps)
        self._index += 1
        self._start += count
        return segment

    def mark(self) -> object:
        return self._index, self._start, self._noise.get_state()

    def rewind(self, mark: Any) -> None:
        self._index, self._start, noise = mark
        self._noise.set_state(noise)

    def extend(self, request: Request) -> None:
        self._request = request

    def reseed(self, seed: int) -> None:
        self._noise.manual_seed(seed)

    def _misbehave(self) -> None:
        if self._orders.get("raise") == str(self._index):
            raise RuntimeError("a made-up fault")
        if self._orders.get("oom") == str(self._index):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        if self._orders.get("kill") == str(self._index):
            os.kill(os.getpid(), signal.SIGKILL)
        if self._orders.get("freeze") == str(self._index):
            os.kill(os.getpid(), signal.SIGSTOP)
        if self._orders.get("hang") == str(self._index):
            threading.Event().wait()

    def _remember(self) -> float:
        geometry = SPEC.geometry
        shape = (1, geometry.heads, SPEC.latents_per_block * geometry.tokens_per_frame, geometry.head_dim)
        heard = 0.0
        for index in range(geometry.layers):
            layer = self._cache.layer(index)
            q, k, v = (torch.randn(shape, generator=self._noise).bfloat16() for _ in range(3))
            layer.stage(k, v)
            heard += float(attend(q, layer).float().abs().mean())
        self._cache.commit()
        return heard % 1.0
