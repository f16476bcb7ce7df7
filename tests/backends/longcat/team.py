"""What each process of `test_parallel` does: `team.py FOLDER guidance heads`.

Makes the same video in every way asked for, and the first process also by itself: it writes how they differ.
Encoding and decoding are stand-ins, so that no process has to load diffusers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from backends.base import Request
from backends.longcat import image_latents, parallel, schedule
from backends.longcat.parallel import ALONE, Team
from backends.longcat.rollout import LongCatBackend
from backends.longcat.settings import Settings, latents_of
from backends.longcat.spec import SPEC
from qvg import BF16, CacheGeometry, KVCache
from tests.backends.longcat.recorded import NEGATIVE, PROMPT, frames, models
from tests.backends.longcat.samples import CONFIG, HEIGHT, WIDTH

SETTINGS = Settings(negative=NEGATIVE, steps=2, window=13, condition_frames=9)


def encode(vae, frames: np.ndarray, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
    count = latents_of(len(frames))
    noise = torch.randn(1, 16, count, HEIGHT // 8, WIDTH // 8, generator=generator)
    return noise + float(frames.mean()) / 255


def make(team: Team) -> tuple[list[np.ndarray], list[torch.Tensor], KVCache]:
    """Two blocks from a picture: frames, the windows' latents, and the cache at the end."""
    windows: list[torch.Tensor] = []

    def decode(vae, latents: torch.Tensor, state: list) -> Iterator[np.ndarray]:
        windows.append(latents)
        for index in range(latents.shape[2]):
            pixels = (latents[0, :3, index].repeat_interleave(8, 1).repeat_interleave(8, 2) * 40 + 128).clamp(
                0, 255
            )
            frame = pixels.permute(1, 2, 0).byte().numpy()
            yield np.stack([frame] * (4 if index else 1))

    image_latents.encode, image_latents.decode = encode, decode
    # Two steps, not eleven, of which each exchanges something in every layer.
    schedule.continuing = schedule.uniform
    heads = CONFIG.heads // (1 if team.heads is None else team.heads.size)
    geometry = CacheGeometry(CONFIG.layers, heads, CONFIG.head_dim, HEIGHT * WIDTH // 256)
    made_for = replace(SPEC, width=WIDTH, height=HEIGHT, geometry=geometry)
    parts = models(team=team, vae=SimpleNamespace(scale=8, channels=16))
    cache = KVCache(geometry, BF16, frames_per_block=1)
    request = Request(prompt=PROMPT, image=frames()[0], seed=3, blocks=2)
    video = LongCatBackend(parts, SETTINGS, made_for).open(request, cache, lambda step, steps: None)
    return [video.step().frames for _ in range(2)], windows, cache


def main() -> None:
    torch.set_num_threads(1)
    torch.cpu._is_amx_tile_supported = lambda: False
    ways = {}
    for way in sys.argv[2:]:
        team = parallel.join(guidance=way != "heads", device=torch.device("cpu"))
        ways[way] = (team, *make(team))
    leads = dist.get_rank() == 0
    expected, windows, whole = make(ALONE) if leads else ([], [], None)
    found = {}
    for way, (team, made, ours, cache) in ways.items():
        pairs = zip(made, expected, strict=False)
        found[way] = {
            "leads": team.leads,
            "frames": [list(frames.shape) for frames in made],
            "apart": [float((a - b).abs().max()) for a, b in zip(ours, windows, strict=True)],
            "pixels": [int(np.abs(a.astype(int) - b).max()) for a, b in pairs],
            "heads": cache.geometry.heads,
            "bytes": cache.stats().stored_bytes,
        }
        if whole is not None:
            found[way]["bytes"] /= whole.stats().stored_bytes
    Path(sys.argv[1], f"{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
