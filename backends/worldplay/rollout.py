"""HY-WorldPlay's rollout: a picture, a prompt and a camera path to blocks of frames."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backends.base import BackendSpec, NonFiniteLatents, Request, Segment, Tick
from backends.camera import CameraMove, each_latent
from backends.wan import vae
from backends.worldplay import spec
from backends.worldplay.memory import FieldOfView, Memory
from backends.worldplay.models import Models
from backends.worldplay.poses import Pose, Views, advance, start
from backends.worldplay.sampler import LEVELS, Sampler, gaussian
from qvg import Clock, KVCache

MEMORIES = {
    "recompute": Memory(refresh="recompute"),
    "incremental": Memory(refresh="incremental", blocks=spec.KEPT_READ),
    "frozen": Memory(refresh="frozen", blocks=spec.KEPT_READ),
}


class WorldPlayRollout:
    """One video: the request's prompt, picture and path."""

    def __init__(self, models: Models, request: Request, cache: KVCache, tick: Tick) -> None:
        mode = request.mode or models.spec.modes[0].id
        self._models, self._tick = models, tick
        self._blocks, self._index, self._frames = request.blocks, 0, 0
        self._path = tuple(each_latent(request.moves))
        self._walked = 0  # latents of the path
        self._pose: Pose | None = None
        self.notes = tuple(_notes(models.spec, request, mode))
        # A new prompt may take a while to encode.
        tick(0, len(LEVELS))
        self._first: Tensor | None = None
        if request.image is not None:
            picture = fit_picture(request.image, models.spec.height, models.spec.width)
            self._first = models.autoencoder.encode(picture[None, None])[0, 0]
        shape = (
            models.spec.latents_per_block,
            models.autoencoder.channels,
            models.spec.height // models.autoencoder.scale,
            models.spec.width // models.autoencoder.scale,
        )
        self._sampler = Sampler(
            models.transformer,
            models.rope,
            cache,
            models.embed(request.prompt),
            gaussian(request.seed, shape),
            MEMORIES[mode],
            FieldOfView(models.device),
        )
        self._decoder = models.autoencoder.stream()
        self._decode_clock = Clock(models.device)

    def step(self, move: CameraMove | None = None) -> Segment | None:
        if self._index >= self._blocks:
            return None
        clocks = {
            "context": self._sampler.context_clock,
            "denoise": self._sampler.denoise_clock,
            "decode": self._decode_clock,
        }
        before = {name: clock.ms for name, clock in clocks.items()}
        latents = self._sampler.generate(self._views(move), self._first, self._tick)
        self._first = None
        with self._decode_clock.running():
            frames = vae.to_pixels(self._decoder.decode(latents[None])[0])
        pixels = frames.cpu().numpy()
        if not bool(latents.isfinite().all()):
            raise NonFiniteLatents
        ms = {name: clock.ms - before[name] for name, clock in clocks.items()}
        segment = Segment(pixels, self._index, self._frames, self._models.spec.fps, ms)
        self._index += 1
        self._frames += len(pixels)
        return segment

    def _views(self, move: CameraMove | None) -> Views:
        """Returns the cameras of the next block; the video's first frame is seen from the start."""
        poses = []
        for _ in range(self._models.spec.latents_per_block):
            if self._pose is None:
                self._pose = start()
            else:
                planned = self._path[self._walked] if self._walked < len(self._path) else ()
                self._pose = advance(self._pose, planned if move is None else move.keys)
                self._walked += 1
            poses.append(self._pose)
        return Views.of(poses)


class WorldPlayBackend:
    def __init__(self, models: Models) -> None:
        self.models = models
        self.spec: BackendSpec = models.spec

    def open(self, request: Request, cache: KVCache, tick: Tick) -> WorldPlayRollout:
        return WorldPlayRollout(self.models, request, cache, tick)


def fit_picture(image: np.ndarray, height: int, width: int) -> Tensor:
    """Returns the middle of uint8 [H, W, 3], scaled to cover fp32 [3, height, width] in -1..1."""
    scale = max(height / image.shape[0], width / image.shape[1])
    # Never a pixel short, which would leave a black edge.
    scaled = max(width, int(image.shape[1] * scale)), max(height, int(image.shape[0] * scale))
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    across, down = image.shape[1] / scaled[0], image.shape[0] / scaled[1]
    # A long picture is cropped before it is scaled: scaled as a whole it may be a gigabyte.
    box = (left * across, top * down, (left + width) * across, (top + height) * down)
    picture = Image.fromarray(np.ascontiguousarray(image))
    fitted = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS, box), dtype=np.float32)
    return torch.from_numpy(fitted).permute(2, 0, 1) / 127.5 - 1


def _notes(described: BackendSpec, request: Request, mode: str) -> list[str]:
    notes = [next(f"Memory: {each.title}." for each in described.modes if each.id == mode)]
    if request.image is not None:
        notes.append("The picture, cropped to fit, is the first frame; the world beyond it is imagined.")
    walked = sum(move.latents for move in request.moves)
    needed = request.blocks * described.latents_per_block - 1
    if 0 < walked < needed:
        notes.append(
            f"The camera path ends after {walked} of {needed} latents: the camera then stands still."
        )
    return notes
