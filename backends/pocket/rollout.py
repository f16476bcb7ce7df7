"""Generating with Pocket World: a few Euler steps a block, then a clean pass whose keys and values stay."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from backends.base import BackendSpec, BackendUnavailable, NoPicture, Request, Segment, Tick
from backends.camera import CameraMove, each_latent
from backends.pocket import spec, weights
from backends.pocket.autoencoder import DOWN, LATENT_CHANNELS, Autoencoder
from backends.pocket.conditioning import Layout, in_sight, plan, seen_here, tell
from backends.pocket.scene import OBJECTS, advance
from backends.pocket.spec import BLOCK_FRAMES, FPS, HEIGHT, SPEC, WIDTH
from backends.pocket.transformer import Rotary, Transformer, ray_features
from backends.pocket.vocabulary import parse_prompt
from qvg import KVCache, attend, choose


def noise_levels(steps: int, shift: float) -> tuple[float, ...]:
    """Where each step looks, from pure noise (1): uniform levels, shifted up as flow-matching models do."""
    return tuple(shift * u / (1 + (shift - 1) * u) for u in (1 - step / steps for step in range(steps)))


LEVELS = noise_levels(2, 3.0)
# What a prompt leaves open is settled in the first block, from noise alone: it gets more, and earlier, steps.
OPENING = noise_levels(6, 5.0)


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """The loaded models and where they run."""

    autoencoder: Autoencoder
    transformer: Transformer
    rotary: Rotary
    device: torch.device
    dtype: torch.dtype

    @torch.inference_mode()
    def encode(self, pictures: Tensor) -> Tensor:
        """Latents [N, 12, H / 8, W / 8] of pictures [N, 3, H, W] in 0..1."""
        pictures = (pictures.to(self.device, self.dtype) * 2 - 1).contiguous(
            memory_format=torch.channels_last
        )
        return self.autoencoder.encode(pictures)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> Tensor:
        """Pictures [N, 3, H, W] in 0..1, fp32."""
        latents = latents.to(self.dtype).contiguous(memory_format=torch.channels_last)
        return (self.autoencoder.decode(latents).float() * 0.5 + 0.5).clamp(0, 1)


class Sampler:
    """Denoises a batch of B videos in step over one cache made for that batch."""

    def __init__(
        self, world: World, cache: KVCache, layout: Layout, seed: int, opening: tuple[float, ...] = OPENING
    ) -> None:
        """A layout for each video; `opening` are the noise levels of a first block made from noise alone."""
        self._world, self._cache = world, cache
        self._layout = layout.to(world.device)
        self.look = self._layout.look().to(world.dtype)
        self.sights: tuple[tuple[Tensor, Tensor], ...] = ()  # of each block its poses and what they showed
        self._opening = opening
        # Drawn on the CPU: a seed means the same video on every device, whatever the codec does.
        self.noise = torch.Generator().manual_seed(seed)

    @torch.inference_mode()
    def generate(self, poses: Tensor, first: Tensor | None = None, tick: Tick | None = None) -> Tensor:
        """Clean latents [B, F, 12, h, w] of the next block, seen from `poses` [B, F, 4]; now history.

        `first` [B, 12, h, w] are the known latents of the block's first frame.
        """
        poses = poses.to(self._world.device)
        view = self.view(poses)
        shape = (*poses.shape[:2], LATENT_CHANNELS, HEIGHT // DOWN, WIDTH // DOWN)
        x = torch.randn(shape, generator=self.noise).to(self._world.device)
        levels = self._opening if self._cache.frames == 0 and first is None else LEVELS
        for step, (t, below) in enumerate(zip(levels, (*levels[1:], 0.0), strict=True)):
            if tick is not None:
                tick(step, len(levels) + 1)
            level = torch.full(shape[:2], t, device=x.device)
            if first is not None:
                x[:, 0] = first.float()
                level[:, 0] = 0.0
            clean = self._predict(x, level, view)
            x = (1 - below) * clean + below * (x - (1 - t) * clean) / t
        if first is not None:
            x[:, 0] = first.float()
        if tick is not None:
            tick(len(levels), len(levels) + 1)
        self._absorb(x, view, poses)
        return x

    @torch.inference_mode()
    def absorb(self, latents: Tensor, poses: Tensor) -> None:
        """Makes given latents [B, F, 12, h, w], one block, history."""
        poses = poses.to(self._world.device)
        self._absorb(latents.to(self._world.device), self.view(poses), poses)

    def view(self, poses: Tensor) -> Tensor:
        """What the tokens of a block at poses [B, F, 4] look at, for the transformer."""
        told = torch.ones(*poses.shape[:2], OBJECTS, dtype=torch.bool, device=poses.device)
        if counted := self.sights[:-1]:  # as `told_by_block` has it
            before, shown = (torch.cat(parts, 1) for parts in zip(*counted, strict=True))
            told = ~seen_here(poses, before, shown)
        return self._world.transformer.view(ray_features(poses), tell(self._layout, poses, told))

    def _absorb(self, latents: Tensor, view: Tensor, poses: Tensor) -> None:
        self._predict(latents, torch.zeros(latents.shape[:2], device=latents.device), view, last_output=False)
        self._cache.commit()
        self.remember(poses)

    def remember(self, poses: Tensor) -> None:
        """That a block seen from `poses` [B, F, 4] is history now."""
        self.sights += ((poses, in_sight(self._layout.things, poses)),)

    def _predict(self, x: Tensor, level: Tensor, view: Tensor, last_output: bool = True) -> Tensor:
        rotary, cache = self._world.rotary, self._cache
        last = cache.geometry.layers - 1

        def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            history = cache.layer(layer)
            history.stage(k, v)
            # A pass made only for its keys and values needs nothing after the last layer's.
            return attend(rotary(q, cache.frames), history, rotary) if last_output or layer < last else q

        return self._world.transformer(x.to(self._world.dtype), level, view, self.look, attention).float()


Pose = tuple[float, float, float, float]


class Mark(NamedTuple):
    """What a step changes beside the cache."""

    index: int
    first: Tensor | None
    walked: int
    pose: Pose | None
    noise: Tensor
    sights: tuple[tuple[Tensor, Tensor], ...]


class PocketRollout:
    """One video: the request's prompt, picture and path."""

    def __init__(self, world: World, request: Request, cache: KVCache, tick: Tick) -> None:
        words = parse_prompt(request.prompt)
        self.notes = (words.note(),) if request.prompt.strip() or request.image is None else ()
        self._first: Tensor | None = None
        if request.image is not None:
            self._first = world.encode(fit_picture(request.image))
            self.notes += (
                "The picture is cropped to 7:4 and is the first frame; the world beyond it is imagined.",
            )
        self._world, self._tick = world, tick
        layout = plan(words, request.seed, beyond_picture=request.image is not None)
        self._sampler = Sampler(world, cache, layout, request.seed)
        self._blocks, self._index = request.blocks, 0
        self._path = tuple(each_latent(request.moves))
        self._walked = 0  # latents of the path
        self._pose: Pose | None = None

    def step(self, move: CameraMove | None = None) -> Segment | None:
        if self._index >= self._blocks:
            return None
        began = time.perf_counter()
        poses = self._next_poses(move)
        latents = self._sampler.generate(poses, self._first, self._tick)
        self._first = None
        if latents.is_cuda:
            torch.cuda.synchronize(latents.device)  # or the decoder would be charged with the denoising
        denoised = time.perf_counter()
        if not bool(latents.isfinite().all()):
            raise NoPicture
        pictures = self._world.decode(latents[0])
        frames = (rearrange(pictures, "t c h w -> t h w c") * 255).round().to(torch.uint8).cpu().numpy()
        ms = {"denoise": 1e3 * (denoised - began), "decode": 1e3 * (time.perf_counter() - denoised)}
        segment = Segment(frames, self._index, self._index * BLOCK_FRAMES, FPS, ms)
        self._index += 1
        return segment

    def mark(self) -> Mark:
        noise = self._sampler.noise.get_state()
        return Mark(self._index, self._first, self._walked, self._pose, noise, self._sampler.sights)

    def rewind(self, mark: object) -> None:
        assert isinstance(mark, Mark)
        self._index, self._first, self._walked, self._pose = mark.index, mark.first, mark.walked, mark.pose
        self._sampler.noise.set_state(mark.noise)
        self._sampler.sights = mark.sights

    def go_on(self, request: Request) -> None:
        self._blocks, self._path = request.blocks, tuple(each_latent(request.moves))

    def reseed(self, seed: int) -> None:
        self._sampler.noise.manual_seed(seed)

    def _next_poses(self, move: CameraMove | None) -> Tensor:
        """[1, BLOCK_FRAMES, 4]; the video's first frame is where the camera stands."""
        poses = []
        for _ in range(BLOCK_FRAMES):
            if self._pose is None:
                self._pose = (0.0, 0.0, 0.0, 0.0)
            else:
                planned = self._path[self._walked] if self._walked < len(self._path) else ()
                self._pose = advance(self._pose, planned if move is None else move.keys)
                self._walked += 1
            poses.append(self._pose)
        return torch.tensor([poses])


class PocketBackend:
    spec: BackendSpec = SPEC

    def __init__(self, world: World) -> None:
        self.world = world

    def open(self, request: Request, cache: KVCache, tick: Tick) -> PocketRollout:
        return PocketRollout(self.world, request, cache, tick)


def load_world(device: torch.device, folder: Path = spec.WEIGHTS) -> World:
    """Raises BackendUnavailable when the weights in `folder` cannot be read."""
    dtype = choose(device, SPEC.geometry.head_dim).dtype
    autoencoder, transformer = weights.load(folder, device, dtype)
    rotary = Rotary(SPEC.max_blocks * BLOCK_FRAMES, device, dtype)
    return World(autoencoder, transformer, rotary, device, dtype)


def load(device: torch.device, say: Callable[[str], None]) -> PocketBackend:
    """Raises BackendUnavailable when the weights are missing or cannot be read."""
    if (problem := spec.missing()) is not None:
        raise BackendUnavailable(problem)
    say("Loading Pocket World")
    return PocketBackend(load_world(device))


def load_random(device: torch.device, say: Callable[[str], None], tiny: bool = False) -> PocketBackend:
    """The same models with random weights; they are `tiny` as they are."""
    say("Making random weights")
    dtype = choose(device, SPEC.geometry.head_dim).dtype
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        autoencoder, transformer = Autoencoder(), Transformer()
    weights.place(autoencoder, transformer, device, dtype)
    rotary = Rotary(SPEC.max_blocks * BLOCK_FRAMES, device, dtype)
    return PocketBackend(World(autoencoder, transformer, rotary, device, dtype))


def fit_picture(image: np.ndarray) -> Tensor:
    """The middle of uint8 [H, W, 3] at the world's size: fp32 [1, 3, HEIGHT, WIDTH] in 0..1."""
    picture = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
    height, width = picture.shape[-2:]
    scale = max(HEIGHT / height, WIDTH / width)
    size = (max(HEIGHT, round(height * scale)), max(WIDTH, round(width * scale)))
    picture = F.interpolate(picture, size=size, mode="bilinear", antialias=True)
    top, left = (size[0] - HEIGHT) // 2, (size[1] - WIDTH) // 2
    return picture[..., top : top + HEIGHT, left : left + WIDTH].clamp(0, 1)
