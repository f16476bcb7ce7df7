"""Held-out scenes for Pocket World, and its videos of all of them at once."""

from __future__ import annotations

from statistics import mean

import torch
from torch import Tensor

from backends.camera import each_latent, parse_path
from backends.pocket.conditioning import Layout, describe
from backends.pocket.models import Models
from backends.pocket.render import render
from backends.pocket.sampler import OPENING, Sampler
from backends.pocket.scene import LOOKS, Scenes, advance, sample_scenes
from backends.pocket.spec import BLOCK_FRAMES, HEIGHT, SPEC, WIDTH
from qvg import BF16, CachePolicy, KVCache
from qvg.config import CodecConfig
from qvg.metrics import psnr_of_mse

SEED = 20_000


def poses_along(path: str, frames: int) -> Tensor:
    """Returns [frames, 4] along a path in the page's grammar, starting at the camera's first pose."""
    poses = [(0.0, 0.0, 0.0, 0.0)]
    for keys in each_latent(parse_path(path)):
        poses.append(advance(poses[-1], keys))
    return torch.tensor((poses + [poses[-1]] * frames)[:frames])


def psnr(a: Tensor, b: Tensor) -> float:
    """Returns the mean over B of the PSNR in dB of videos [B, F, 3, H, W] in 0..1; 100 dB if equal."""
    return mean(psnr_by_video(a, b, 100.0))


def psnr_by_video(a: Tensor, b: Tensor, most: float) -> list[float]:
    """Returns the PSNR in dB of each video of [B, ...] in 0..1, `most` at most."""
    errors = (a - b).square().flatten(1).mean(1).tolist()
    return [min(most, psnr_of_mse(error, 1)) for error in errors]


def rendered(scenes: Scenes, poses: Tensor) -> Tensor:
    """Returns [B, F, 3, H, W] of every scene along `poses` [F, 4]."""
    every = poses.repeat(len(scenes), 1).to(scenes.look.device)
    return render(scenes.repeat(len(poses)), every, HEIGHT, WIDTH).unflatten(0, (len(scenes), len(poses)))


class HeldOut:
    """A number of held-out scenes, with looks in turn, and their complete layouts."""

    def __init__(self, models: Models, scenes: int, opening: tuple[float, ...] = OPENING) -> None:
        self.models, self.opening = models, opening
        generator = torch.Generator(models.device).manual_seed(SEED)
        self.scenes = sample_scenes(scenes, generator)
        self.scenes.look.copy_(torch.arange(scenes, device=models.device) % LOOKS)
        self.layout = describe(self.scenes)

    def cache(
        self, codec: CodecConfig, policy: CachePolicy = SPEC.policy, batch: int | None = None
    ) -> KVCache:
        return KVCache(
            SPEC.geometry,
            codec,
            policy,
            frames_per_block=BLOCK_FRAMES,
            batch=batch or len(self.scenes),
            device=self.models.device,
        )

    def roll(
        self,
        poses: Tensor,
        codec: CodecConfig = BF16,
        policy: CachePolicy = SPEC.policy,
        history: Tensor | None = None,
        first: Tensor | None = None,
        seed: int = 1,
        layout: Layout | None = None,
    ) -> tuple[Tensor, KVCache]:
        """Returns frames [B, F, 3, H, W] generated along poses [F, 4], and the cache after the last.

        `history` [B, F', 3, H, W] is given for the first F' poses, `first` [B, 3, H, W] for the first one;
        `layout` replaces the scenes' own.
        """
        layout = layout or self.layout
        batch = len(layout.place)
        cache = self.cache(codec, policy, batch)
        sampler = Sampler(self.models, cache, layout, seed, self.opening)
        blocks = list(poses.expand(batch, -1, -1).split(BLOCK_FRAMES, dim=1))
        if history is not None:
            known = self.models.encode(history.flatten(0, 1)).unflatten(0, history.shape[:2])
            for latents in known.split(BLOCK_FRAMES, dim=1):
                sampler.absorb(latents, blocks.pop(0))
        given = None if first is None else self.models.encode(first)
        frames = []
        for block in blocks:
            latents = sampler.generate(block, given)
            given = None
            frames.append(self.models.decode(latents.flatten(0, 1)).unflatten(0, latents.shape[:2]))
        return torch.cat(frames, 1), cache
