"""How good Pocket World is, on scenes it never saw: `python -m backends.pocket.evaluate`.

recall    40 rendered frames of a 100 degree pan are the history; the pan back is generated and compared
          with the renderer, which is fair because all of it has been seen.
revisit   the model's own rollout turns 100 degrees away and comes back; returning frames are compared with
          the outgoing ones at the same poses, with full memory and with a window of 12 frames.
codec     the same rollout, same seed, with QVG INT2 against BF16.

PSNR is of the mean squared error over a video's frames, then the mean over scenes; 100 dB means identical.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backends.camera import each_latent, parse_path
from backends.pocket.render import render
from backends.pocket.rollout import LEVELS, OPENING, Sampler, World, load_world
from backends.pocket.spec import BLOCK_FRAMES, HEIGHT, SPEC, WEIGHTS, WIDTH
from backends.pocket.world import Scenes, advance, sample_prompts, sample_scenes
from qvg import BF16, QVG, CachePolicy, KVCache
from qvg.config import CodecConfig

HELD_OUT_SEED = 20_000
PAN = 40  # frames
WINDOW = CachePolicy(every=3, window=3)  # 12 frames


def poses_along(path: str, frames: int) -> Tensor:
    """[frames, 4] along a path in the page's grammar, starting where the camera stands."""
    poses = [(0.0, 0.0, 0.0, 0.0)]
    for keys in each_latent(parse_path(path)):
        poses.append(advance(poses[-1], keys))
    return torch.tensor((poses + [poses[-1]] * frames)[:frames])


def psnr(a: Tensor, b: Tensor) -> float:
    """dB for [B, F, 3, H, W] in 0..1: of each video's mean squared error, then the mean over B."""
    return (-10 * (a - b).square().mean(dim=(1, 2, 3, 4)).clamp_min(1e-10).log10()).mean().item()


def rendered(scenes: Scenes, poses: Tensor) -> Tensor:
    """[B, F, 3, H, W] of every scene along `poses` [F, 4]."""
    every = poses.repeat(len(scenes), 1).to(scenes.theme.device)
    return render(scenes.repeat(len(poses)), every, HEIGHT, WIDTH).unflatten(0, (len(scenes), len(poses)))


class Evaluation:
    def __init__(self, world: World, scenes: int, opening: tuple[float, ...] = OPENING) -> None:
        self.world, self.opening = world, opening
        generator = torch.Generator(world.device).manual_seed(HELD_OUT_SEED)
        self.scenes = sample_scenes(scenes, generator)
        self.scenes.theme.copy_(torch.arange(scenes, device=world.device) % 5)
        self.prompts = sample_prompts(self.scenes, generator)

    def cache(self, codec: CodecConfig, policy: CachePolicy = SPEC.policy) -> KVCache:
        return KVCache(SPEC.geometry, codec, policy, frames_per_block=BLOCK_FRAMES, batch=len(self.scenes),
                       device=self.world.device)  # fmt: skip

    def roll(
        self,
        poses: Tensor,
        codec: CodecConfig = BF16,
        policy: CachePolicy = SPEC.policy,
        history: Tensor | None = None,
        first: Tensor | None = None,
        seed: int = 1,
    ) -> tuple[Tensor, KVCache]:
        """Frames [B, F, 3, H, W] generated along poses [F, 4], and the cache after the last.

        `history` [B, F', 3, H, W] is given for the first F' poses, `first` [B, 3, H, W] for the first one.
        """
        batch = len(self.scenes)
        cache = self.cache(codec, policy)
        sampler = Sampler(self.world, cache, self.prompts, seed, self.opening)
        blocks = list(poses.expand(batch, -1, -1).split(BLOCK_FRAMES, dim=1))
        if history is not None:
            known = self.world.encode(history.flatten(0, 1)).unflatten(0, history.shape[:2])
            for latents in known.split(BLOCK_FRAMES, dim=1):
                sampler.absorb(latents, blocks.pop(0))
        given = None if first is None else self.world.encode(first)
        frames = []
        for block in blocks:
            latents = sampler.generate(block, given)
            given = None
            frames.append(self.world.decode(latents.flatten(0, 1)).unflatten(0, latents.shape[:2]))
        return torch.cat(frames, 1), cache

    def autoencoder(self) -> float:
        poses = poses_along("right-35, left-20, w-8", 64)[::8]
        real = rendered(self.scenes, poses)
        back = self.world.decode(self.world.encode(real.flatten(0, 1))).unflatten(0, real.shape[:2])
        return psnr(real, back)

    def recall(self, policy: CachePolicy = SPEC.policy, codec: CodecConfig = BF16) -> float:
        out = torch.zeros(PAN, 4)
        out[:, 2] = torch.linspace(0, np.deg2rad(100), PAN)
        poses = torch.cat([out, out.flip(0)])
        real = rendered(self.scenes, poses)
        made, _ = self.roll(poses, codec, policy, history=real[:, :PAN])
        return psnr(made, real[:, PAN:])

    def revisit(self, policy: CachePolicy = SPEC.policy, codec: CodecConfig = BF16) -> float:
        made, _ = self.roll(poses_along(f"right-{PAN}, left-{PAN}", 84), codec, policy)
        return psnr(made[:, PAN + 1 : 2 * PAN + 1], made[:, :PAN].flip(1))

    def codec(self, codec: CodecConfig, frames: int = 96) -> dict[str, float]:
        poses = poses_along("right-16, w-12, left-24, w-12, right-32", frames)
        exact, _ = self.roll(poses)
        made, cache = self.roll(poses, codec)
        return {
            "psnr_first_chunk": psnr(made[:, :BLOCK_FRAMES], exact[:, :BLOCK_FRAMES]),
            "psnr_first_32_frames": psnr(made[:, :32], exact[:, :32]),
            "psnr_frames_24_32": psnr(made[:, 24:32], exact[:, 24:32]),
            "psnr_all": psnr(made, exact),
            "ratio": cache.stats().ratio,
        }

    def contact_sheet(self, scenes: int = 5) -> Image.Image:
        """Four rows a scene: renderer; first frame given; the same with a 12-frame window; prompt alone."""
        poses = poses_along("right-20, left-20, w-12, s-12, left-16, right-16", 96)
        columns = [0, 8, 16, 24, 32, 40, 48, 58, 72, 88]
        real = rendered(self.scenes, poses)
        rows = [
            real,
            self.roll(poses, first=real[:, 0])[0],
            self.roll(poses, policy=WINDOW, first=real[:, 0])[0],
            self.roll(poses)[0],
        ]
        sheet = torch.stack([row[:scenes, columns] for row in rows], 1)  # [scenes, 4, columns, 3, H, W]
        sheet = sheet.permute(0, 1, 4, 2, 5, 3).reshape(scenes * 4 * HEIGHT, len(columns) * WIDTH, 3)
        return Image.fromarray((sheet.cpu().numpy() * 255).round().astype(np.uint8))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=20)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", choices=["autoencoder", "recall", "revisit", "codec", "sheet"], nargs="*")
    parser.add_argument("--plain-opening", action="store_true", help="no extra steps for the first block")
    parser.add_argument("--weights", type=Path, default=WEIGHTS, help="folder of the weights to judge")
    parser.add_argument("--sheet", type=Path, default=WEIGHTS / "contact_sheet.png")
    options = parser.parse_args(arguments)
    device = torch.device(options.device)
    evaluation = Evaluation(
        load_world(device, options.weights), options.scenes, LEVELS if options.plain_opening else OPENING
    )
    int2 = replace(QVG, clusters=SPEC.clusters)
    parts = {
        "autoencoder": lambda: {"psnr": evaluation.autoencoder()},
        "recall": lambda: {"full": evaluation.recall(), "window": evaluation.recall(WINDOW),
                           "qvg_int2": evaluation.recall(codec=int2)},
        "revisit": lambda: {"full": evaluation.revisit(), "window": evaluation.revisit(WINDOW),
                            "qvg_int2": evaluation.revisit(codec=int2)},
        "codec": lambda: evaluation.codec(int2),
        "sheet": lambda: evaluation.contact_sheet().save(options.sheet) or {},
    }  # fmt: skip
    where = (
        torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    )
    result: dict = {
        "device": where,
        "torch": torch.__version__,
        "scenes": options.scenes,
    }
    for name, part in parts.items():
        if options.only and name not in options.only:
            continue
        began = time.perf_counter()
        result[name] = {key: round(value, 2) for key, value in part().items()}
        print(f"{name}: {result[name]} ({time.perf_counter() - began:.0f} s)", flush=True)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
