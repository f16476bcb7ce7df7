"""Speed and memory of a whole generator: `python -m backends.bench pocket`.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import time
from dataclasses import replace

import torch

from backends import registry
from backends.base import Backend, Request
from backends.camera import parse_path
from qvg import BF16, PRESETS, KVCache
from qvg.config import CodecConfig, PRQConfig
from qvg.device import choose

PATH = "right-40, left-40, w-16"


def run(backend: Backend, codec: CodecConfig, blocks: int, device: torch.device) -> dict:
    """One video; milliseconds a block and what the cache holds at the end."""
    spec = backend.spec
    cache = KVCache(spec.geometry, codec, spec.policy, frames_per_block=spec.latents_per_block, device=device)
    request = Request(prompt=spec.examples[0], moves=parse_path(PATH), blocks=blocks)
    rollout = backend.open(request, cache, lambda step, steps: None)
    times = []
    began = time.perf_counter()
    while rollout.step() is not None:
        times.append(time.perf_counter() - began)
        began = time.perf_counter()
    stats = cache.stats()
    frames = spec.video_frames(blocks)
    ms = [1000 * t for t in times]
    return {
        "frames": frames,
        "frames_per_second": round(frames / sum(times), 2),
        "first_block_ms": round(ms[0], 1),
        "block_ms_early": round(statistics.median(ms[1:5]), 1),
        "block_ms_late": round(statistics.median(ms[-4:]), 1),
        "encode_ms_total": round(stats.encode_ms, 1),
        "read_ms_total": round(stats.read_ms, 1),
        "cache_mib": round(stats.stored_bytes / 2**20, 2),
        "bf16_mib": round(stats.bf16_bytes / 2**20, 2),
        "ratio": round(stats.ratio, 3),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backend", choices=[spec.id for spec in registry.specs()])
    parser.add_argument("--codecs", nargs="*", default=["BF16", "QVG INT2"], choices=list(PRESETS))
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="of the CPU; all by default")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    began = time.perf_counter()
    backend = registry.load(options.backend, device, lambda text: None)
    result: dict = {
        "backend": options.backend,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "choice": choose(device, backend.spec.geometry.head_dim).reason,
        "load_s": round(time.perf_counter() - began, 2),
    }
    run(backend, BF16, 1, device)  # warm
    for name in options.codecs:
        codec = PRESETS[name]
        if isinstance(codec, PRQConfig):
            codec = replace(codec, clusters=min(codec.clusters, backend.spec.clusters))
        result[name] = run(backend, codec, options.blocks, device)
        print(f"{name}: {result[name]}", flush=True)
    result["process_peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(result))


def _cpu() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


if __name__ == "__main__":
    main()
