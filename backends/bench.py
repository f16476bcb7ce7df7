"""Speed and memory of a whole generator: `python -m backends.bench pocket`.

The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import resource
import statistics
import time

import torch

from backends import machine, registry
from backends.base import Backend, Request
from backends.camera import parse_path
from backends.plan import codec_for
from qvg import BF16, PRESETS, KVCache
from qvg.config import CodecConfig

PATH = "right-40, left-40, w-16"


def run(backend: Backend, codec: CodecConfig, blocks: int, device: torch.device) -> dict[str, float]:
    """One video: how long its blocks took, and what the cache held and cost."""
    spec = backend.spec
    cache = KVCache(spec.geometry, codec, spec.policy, frames_per_block=spec.latents_per_block, device=device)
    request = Request(prompt=spec.examples[0], moves=parse_path(PATH), blocks=blocks)
    ms = []
    began = time.perf_counter()
    rollout = backend.open(request, cache, lambda step, steps: None)
    while rollout.step() is not None:
        now = time.perf_counter()
        ms.append(1e3 * (now - began))
        began = now
    stats = cache.stats()
    frames = spec.video_frames(blocks)
    figures = {
        "frames": frames,
        "frames_per_second": 1e3 * frames / sum(ms),
        "first_block_ms": ms[0],
        "early_block_ms": statistics.median(ms[1:5] or ms),
        "late_block_ms": statistics.median(ms[-4:]),
        "encode_share": stats.encode_ms / sum(ms),
        "read_share": stats.read_ms / sum(ms),
        "cache_mib": stats.stored_bytes / 2**20,
        "bf16_mib": stats.bf16_bytes / 2**20,
        "ratio": stats.ratio,
    }
    return {name: round(value, 3) for name, value in figures.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backend", choices=registry.IDS)
    parser.add_argument("--codecs", nargs="*", default=["BF16", "QVG INT2"], choices=list(PRESETS))
    parser.add_argument("--blocks", type=int, default=24)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--threads", type=int, help="of the CPU; every core by default")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads or machine.physical_cores())
    device = machine.choose(options.device)
    began = time.perf_counter()
    backend = registry.load(options.backend, device, lambda text: None)
    load_s = time.perf_counter() - began
    result = {
        "backend": options.backend,
        "torch": torch.__version__,
        "device": dataclasses.asdict(machine.inspect(device)),
        "load_s": round(load_s, 2),
    }
    run(backend, BF16, 1, device)  # the first block of a process also builds kernels
    for preset in options.codecs:
        result[preset] = run(backend, codec_for(backend.spec, preset), options.blocks, device)
        print(f"{preset}: {result[preset]}", flush=True)
    result["process_peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(json.dumps(result))


if __name__ == "__main__":
    main()
