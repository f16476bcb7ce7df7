"""Pocket World's rollout: a prompt or a picture, and a camera path, to blocks of frames."""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from backends.base import BackendSpec, NonFiniteLatents, Request, Segment, Tick
from backends.camera import CameraMove, each_latent
from backends.pocket.conditioning import plan
from backends.pocket.models import Models
from backends.pocket.sampler import Sampler
from backends.pocket.scene import advance
from backends.pocket.spec import BLOCK_FRAMES, FPS, HEIGHT, SPEC, WIDTH
from backends.pocket.vocabulary import parse_prompt
from qvg import KVCache

Pose = tuple[float, float, float, float]


class Mark(NamedTuple):
    """The state that a step changes beside the cache."""

    index: int
    first: Tensor | None
    walked: int
    pose: Pose | None
    noise: Tensor
    sights: tuple[tuple[Tensor, Tensor], ...]


class PocketRollout:
    """One video: the request's prompt, picture and path."""

    def __init__(self, models: Models, request: Request, cache: KVCache, tick: Tick) -> None:
        words = parse_prompt(request.prompt)
        self.notes = (words.note(),) if request.prompt.strip() or request.image is None else ()
        self._first: Tensor | None = None
        if request.image is not None:
            self._first = models.encode(fit_picture(request.image))
            self.notes += (
                "The picture is cropped to 7:4 and is the first frame; the world beyond it is imagined.",
            )
        self._models, self._tick = models, tick
        layout = plan(words, request.seed, beyond_picture=request.image is not None)
        self._sampler = Sampler(models, cache, layout, request.seed)
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
            torch.cuda.synchronize(latents.device)  # otherwise the denoising would count as decoding
        denoised = time.perf_counter()
        if not bool(latents.isfinite().all()):
            raise NonFiniteLatents
        pictures = self._models.decode(latents[0])
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

    def extend(self, request: Request) -> None:
        self._blocks, self._path = request.blocks, tuple(each_latent(request.moves))

    def reseed(self, seed: int) -> None:
        self._sampler.noise.manual_seed(seed)

    def _next_poses(self, move: CameraMove | None) -> Tensor:
        """Returns [1, BLOCK_FRAMES, 4]; the video's first frame is seen from the start."""
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

    def __init__(self, models: Models) -> None:
        self.models = models

    def open(self, request: Request, cache: KVCache, tick: Tick) -> PocketRollout:
        return PocketRollout(self.models, request, cache, tick)


def fit_picture(image: np.ndarray) -> Tensor:
    """Returns the middle of uint8 [H, W, 3] at the model's size: fp32 [1, 3, HEIGHT, WIDTH] in 0..1."""
    picture = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
    height, width = picture.shape[-2:]
    scale = max(HEIGHT / height, WIDTH / width)
    size = (max(HEIGHT, round(height * scale)), max(WIDTH, round(width * scale)))
    picture = F.interpolate(picture, size=size, mode="bilinear", antialias=True)
    top, left = (size[0] - HEIGHT) // 2, (size[1] - WIDTH) // 2
    return picture[..., top : top + HEIGHT, left : left + WIDTH].clamp(0, 1)
