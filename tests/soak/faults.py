"""Pocket World with faults on order, for a worker's process: `tests.soak.faults:load`.

A prompt says what goes wrong in which block, from 0: `kill=1`, `raise=1`, `oom=1` (the exception), `hog=1`
(the real thing: more than the process may have), `span=1` (what the cache holds is overwritten). `slow=1`
takes a tenth of a second more for every step.
"""

from __future__ import annotations

import os
import random
import resource
import signal
import time
from collections.abc import Callable
from pathlib import Path

import torch

from backends.base import BackendUnavailable, Request, Segment, Tick
from backends.camera import CameraMove
from backends.pocket.load import load_models
from backends.pocket.models import Models
from backends.pocket.rollout import PocketBackend, PocketRollout
from backends.pocket.spec import WEIGHTS
from qvg import KVCache

WEIGHTS_VARIABLE = "QVG_SOAK_WEIGHTS"  # a folder to load from


def load(backend_id: str, device: torch.device, on_status: Callable[[str], None]) -> PocketBackend:
    on_status(f"Loading {backend_id}.")
    if backend_id != "pocket":
        raise BackendUnavailable(f"{backend_id} is not here.")
    # Threads that share busy cores wait for each other most of the time.
    torch.set_num_threads(1)
    return Faulty(load_models(device, Path(os.environ.get(WEIGHTS_VARIABLE, WEIGHTS))))


class Faulty(PocketBackend):
    def open(self, request: Request, cache: KVCache, tick: Tick) -> PocketRollout:
        return FaultyRollout(self.models, request, cache, tick)


class FaultyRollout(PocketRollout):
    def __init__(self, models: Models, request: Request, cache: KVCache, tick: Tick) -> None:
        self._orders = dict(word.split("=") for word in request.prompt.split() if "=" in word)
        self._cache = cache
        self._dice = random.Random(request.seed)
        self._step = 0
        super().__init__(models, request, cache, self._faulty(tick))

    def _faulty(self, tick: Tick) -> Tick:
        def ticked(step: int, steps: int) -> None:
            tick(step, steps)
            if "slow" in self._orders:
                time.sleep(0.1)
            # In the middle of a block.
            if step == 2:
                self._misbehave()

        return ticked

    def step(self, move: CameraMove | None = None) -> Segment | None:
        segment = super().step(move)
        self._step += 1
        return segment

    def _misbehave(self) -> None:
        for order, block in self._orders.items():
            if block == str(self._step) and order != "slow":
                getattr(self, f"_{order}")()

    def _kill(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _raise(self) -> None:
        raise RuntimeError("a made-up fault")

    def _oom(self) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    def _hog(self) -> None:
        had = resource.getrlimit(resource.RLIMIT_AS)
        here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (here + (64 << 20), had[1]))
        try:
            held = [torch.zeros(16 << 20, dtype=torch.uint8) for _ in range(1000)]
            raise AssertionError(f"there was room for {len(held)}")
        finally:
            resource.setrlimit(resource.RLIMIT_AS, had)

    def _span(self) -> None:
        """One of the tensors of a span becomes noise, or a scale no number."""
        layer = self._cache.layer(self._dice.randrange(self._cache.geometry.layers))
        span = self._dice.choice(layer._spans)
        payload = self._dice.choice([span.k, span.v])
        tensor = self._dice.choice(list(payload.parts.values())).view(torch.uint8)
        if self._dice.random() < 0.5:
            tensor.fill_(0xFF)  # no number in E4M3 and in BF16, and labels past the last centroid
        else:
            tensor.random_(0, 256, generator=torch.Generator().manual_seed(self._dice.randrange(1 << 30)))
