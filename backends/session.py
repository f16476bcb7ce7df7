"""One run, from request to last frame, as a generator: for a worker process, or for a `@spaces.GPU` function.

Progress cannot be yielded from inside the rollout that makes it, so it goes through `emit` as it happens;
finished blocks are yielded.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

import torch

from backends.base import Backend, Done, Event, Progress, Request, Rollout, Stopped, Update
from backends.check import check
from backends.failure import explain
from backends.peak import PeakMemory
from backends.plan import in_words
from qvg.cache import KVCache
from qvg.config import CodecConfig
from qvg.offload import empty_host_cache
from qvg.policy import CachePolicy


def run_session(
    backend: Backend,
    request: Request,
    codec: CodecConfig,
    policy: CachePolicy,
    stop: Callable[[], bool],
    clock: Callable[[], float] = time.perf_counter,
    *,
    device: torch.device | str = "cpu",
    emit: Callable[[Progress], None] = lambda progress: None,
) -> Iterator[Event]:
    """Yields an Update for each block, then Done or Failed. By then, or once closed, the cache is released.

    `stop` is asked before every denoising step, `clock` returns seconds, `device` is where `backend` is.
    """
    device = torch.device(device)
    started = clock()
    peak = PeakMemory(device)
    cache: KVCache | None = None
    rollout: Rollout | None = None
    blocks = frames = 0
    held = ""
    stopped, failed = False, None

    def tick(step: int, steps: int) -> None:
        if stop():
            raise Stopped
        emit(Progress(blocks, request.blocks, step, steps))

    try:
        check(request, backend.spec)
        if stop():
            raise Stopped
        cache = KVCache(
            backend.spec.geometry,
            codec,
            policy,
            frames_per_block=backend.spec.latents_per_block,
            device=device,
        )
        rollout = backend.open(request, cache, tick)
        before = clock()
        while (segment := rollout.step()) is not None:
            blocks += 1
            frames += len(segment.frames)
            now = clock()
            # A rollout may have given the device its next work: waiting for that would hold the frames up.
            stats = cache.stats(wait=False)
            held = f"{in_words(stats.stored_bytes + stats.scratch_bytes)} of KV cache"
            yield Update(segment, stats, (now - before) * 1e3, now - started)
            # The viewer's time is not the block's.
            before = clock()
    except Stopped:
        stopped = True
    except Exception as error:
        failed = explain(error, f"in block {blocks + 1} of {request.blocks}", held)
    finally:
        notes = () if rollout is None else rollout.notes
        peak_bytes = peak.read()
        rollout = None
        if cache is not None:
            cache.reset()
        cache = None
        free_memory()
    yield failed or Done(stopped, blocks, frames, clock() - started, peak_bytes, notes)


def free_memory() -> None:
    """Collects what is no longer referred to and gives unused memory of the GPU, and pinned for it, back."""
    gc.collect()
    if torch.cuda.is_initialized():
        # After a failed kernel every call raises its error again; whoever owns the process then replaces it.
        with suppress(RuntimeError):
            torch.cuda.empty_cache()
            empty_host_cache()
