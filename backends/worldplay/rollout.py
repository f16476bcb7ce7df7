"""Generating with HY-WorldPlay: a picture, words and keys become a world that is walked through."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from backends.base import BackendSpec, BackendUnavailable, NoPicture, Request, Segment, Tick
from backends.camera import CameraMove, each_latent
from backends.hub import artifacts, downloads
from backends.wan import checkpoint, text, vae
from backends.worldplay import spec, weights
from backends.worldplay.memory import FieldOfView, Memory
from backends.worldplay.model import ModelConfig, Transformer
from backends.worldplay.poses import Pose, Views, advance, start
from backends.worldplay.sampler import LEVELS, Sampler, gaussian
from qvg import Clock, KVCache, Rope, choose, grid_rope

ENCODER_BYTES = 12_500_000_000  # the text encoder in BF16 and its activations
POSITIONS = 1024  # frames the model knows (transformer/config.json, rope_max_seq_len)
MEMORIES = {
    "recompute": Memory(refresh="recompute"),
    "incremental": Memory(refresh="incremental", blocks=spec.KEPT_READ),
    "frozen": Memory(refresh="frozen", blocks=spec.KEPT_READ),
}
# Wan-AI/Wan2.2-TI2V-5B-Diffusers, vae/config.json, without the statistics of its latents
VAE = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
}


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """The loaded models and where they run. `embed` turns a prompt into [1, 512, text_width]."""

    spec: BackendSpec
    transformer: Transformer
    rope: Rope
    autoencoder: vae.VAE
    embed: Callable[[str], Tensor]
    device: torch.device


class WorldPlayRollout:
    """One video: the request's prompt, picture and path."""

    def __init__(self, world: World, request: Request, cache: KVCache, tick: Tick) -> None:
        mode = request.mode or world.spec.modes[0].id
        self._world, self._tick = world, tick
        self._blocks, self._index, self._frames = request.blocks, 0, 0
        self._path = tuple(each_latent(request.moves))
        self._walked = 0  # latents of the path
        self._pose: Pose | None = None
        self.notes = tuple(_notes(world.spec, request, mode))
        # A new prompt may take a while to read.
        tick(0, len(LEVELS))
        self._first: Tensor | None = None
        if request.image is not None:
            picture = fit_picture(request.image, world.spec.height, world.spec.width)
            self._first = world.autoencoder.encode(picture[None, None])[0, 0]
        shape = (
            world.spec.latents_per_block,
            world.autoencoder.channels,
            world.spec.height // world.autoencoder.scale,
            world.spec.width // world.autoencoder.scale,
        )
        self._sampler = Sampler(
            world.transformer,
            world.rope,
            cache,
            world.embed(request.prompt),
            gaussian(request.seed, shape),
            MEMORIES[mode],
            FieldOfView(world.device),
        )
        self._decoder = world.autoencoder.stream()
        self._decode_clock = Clock(world.device)

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
            raise NoPicture
        ms = {name: clock.ms - before[name] for name, clock in clocks.items()}
        segment = Segment(pixels, self._index, self._frames, self._world.spec.fps, ms)
        self._index += 1
        self._frames += len(pixels)
        return segment

    def _views(self, move: CameraMove | None) -> Views:
        """Where the camera is in the next block; the video's first frame is where it stands."""
        poses = []
        for _ in range(self._world.spec.latents_per_block):
            if self._pose is None:
                self._pose = start()
            else:
                planned = self._path[self._walked] if self._walked < len(self._path) else ()
                self._pose = advance(self._pose, planned if move is None else move.keys)
                self._walked += 1
            poses.append(self._pose)
        return Views.of(poses)


class WorldPlayBackend:
    def __init__(self, world: World) -> None:
        self.world = world
        self.spec: BackendSpec = world.spec

    def open(self, request: Request, cache: KVCache, tick: Tick) -> WorldPlayRollout:
        return WorldPlayRollout(self.world, request, cache, tick)


def load(device: torch.device, say: Callable[[str], None]) -> WorldPlayBackend:
    """Raises BackendUnavailable when weights are missing or cannot be read."""
    if (problem := spec.missing()) is not None:
        raise BackendUnavailable(problem)
    dtype = choose(device, spec.SPEC.geometry.head_dim).dtype
    transformer = weights.load_published(device, dtype, say)
    say("Loading the video autoencoder")
    autoencoder = vae.load(_path(spec.VAE22), device, dtype)
    prompts = text.Prompts(downloads.own_folder() / "prompts", spec.UMT5.id, lambda: _open_encoder(device))
    return _assemble(spec.SPEC, transformer, autoencoder, prompts.embed, device)


def load_random(device: torch.device, say: Callable[[str], None], tiny: bool = False) -> WorldPlayBackend:
    """With random weights, at full size or as `spec.TINY`: noise that costs what a world costs."""
    described = spec.TINY if tiny else spec.SPEC
    geometry = described.geometry
    config, autoencoder = ModelConfig(), VAE
    if tiny:
        config = ModelConfig(
            layers=geometry.layers,
            heads=geometry.heads,
            head_dim=geometry.head_dim,
            channels=4,
            text_width=32,
            ffn_width=256,
            frequencies=64,
        )
        autoencoder = {**VAE, "base_dim": 8, "decoder_base_dim": 8, "z_dim": 4, "num_res_blocks": 1}
    dtype = choose(device, geometry.head_dim).dtype
    say("Making up HY-WorldPlay's weights")
    transformer = weights.build(config)
    channels = config.channels
    model = vae.build({**autoencoder, "latents_mean": [0.0] * channels, "latents_std": [1.0] * channels})
    for seed, module in enumerate((transformer, model)):
        checkpoint.fill_randomly(module, device, dtype, seed)

    def embed(prompt: str) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(prompt.encode()))
        return torch.randn(1, text.LENGTH, config.text_width, generator=generator)

    return _assemble(described, transformer, vae.VAE(model), embed, device)


def fit_picture(image: np.ndarray, height: int, width: int) -> Tensor:
    """The middle of uint8 [H, W, 3], scaled to cover height x width: fp32 [3, height, width] in -1..1."""
    scale = max(height / image.shape[0], width / image.shape[1])
    # Never a pixel short, which would leave a black edge.
    scaled = max(width, int(image.shape[1] * scale)), max(height, int(image.shape[0] * scale))
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    across, down = image.shape[1] / scaled[0], image.shape[0] / scaled[1]
    # What a long picture is cropped to is cut out first: scaled whole it may be a gigabyte.
    box = (left * across, top * down, (left + width) * across, (top + height) * down)
    picture = Image.fromarray(np.ascontiguousarray(image))
    fitted = np.asarray(picture.resize((width, height), Image.Resampling.LANCZOS, box), dtype=np.float32)
    return torch.from_numpy(fitted).permute(2, 0, 1) / 127.5 - 1


def _assemble(
    described: BackendSpec,
    transformer: Transformer,
    autoencoder: vae.VAE,
    embed: Callable[[str], Tensor],
    device: torch.device,
) -> WorldPlayBackend:
    token = autoencoder.scale * transformer.config.patch  # pixels it covers each way
    rows, columns = described.height // token, described.width // token
    rope = grid_rope(POSITIONS, rows, columns, transformer.config.rotary_pairs, device=device)
    return WorldPlayBackend(World(described, transformer, rope, autoencoder, embed, device))


def _open_encoder(device: torch.device) -> text.TextEncoder:
    """On the GPU if it has the room just now."""
    home = device
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(device)
        home = device if free >= ENCODER_BYTES else torch.device("cpu")
    return text.load(_path(spec.UMT5), _path(spec.UMT5_TOKENIZER), home)


def _path(artifact: artifacts.Artifact) -> Path:
    path = artifacts.locate(artifact)
    if path is None:
        raise BackendUnavailable(f"{artifact.title} is not here: download it first.")
    return path


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
