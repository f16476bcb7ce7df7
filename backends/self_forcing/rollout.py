"""Self-Forcing's rollout: prompts, and optionally a clip to continue, to blocks of frames."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from backends.base import BackendSpec, Request, Segment, Tick
from backends.camera import CameraMove
from backends.self_forcing.models import Models
from backends.self_forcing.sampler import SIGMAS, Sampler
from backends.self_forcing.spec import SPEC
from backends.wan import taehv, vae
from backends.wan.decode import Decoding
from qvg import Clock, KVCache


class SelfForcingBackend:
    def __init__(self, models: Models, described: BackendSpec = SPEC) -> None:
        self.models = models
        self.spec = described

    def open(self, request: Request, cache: KVCache, tick: Tick) -> SelfForcingRollout:
        return SelfForcingRollout(self.models, self.spec, request, cache, tick)


class SelfForcingRollout:
    """One video. All prompts are encoded before the first block: the text encoder is released by then."""

    def __init__(
        self, models: Models, described: BackendSpec, request: Request, cache: KVCache, tick: Tick
    ) -> None:
        self.notes: tuple[str, ...] = ()
        self._models, self._spec, self._tick = models, described, tick
        self._blocks, self._index, self._start = request.blocks, 0, 0
        # The prompt that starts at each block.
        self._prompts = {0: request.prompt, **{change.block: change.prompt for change in request.changes}}
        # Drawn on the CPU: a seed gives the same video on every device, whatever the codec does.
        noise = torch.Generator().manual_seed(request.seed)
        scale = models.vae.scale
        size = (
            described.latents_per_block,
            models.vae.channels,
            described.height // scale,
            described.width // scale,
        )
        self._sampler = Sampler(
            models.transformer, models.rope, cache, size, lambda shape: torch.randn(shape, generator=noise)
        )
        self._decoding = Decoding(self._decoder(request.preview).stream(), models.device)
        self._clip = None if request.clip is None else self._last_blocks(request.clip)
        self._problem: Exception | None = None

    def step(self, move: CameraMove | None = None) -> Segment | None:
        if self._index >= self._blocks:
            return None
        if self._problem is not None:
            raise self._problem
        self._switch_prompt()
        pieces = self._recall()
        latents = self._sampler.generate(self._tick)
        clock, self._sampler.clock = self._sampler.clock, Clock(self._models.device)
        self._decoding.start(latents)
        self._index += 1
        if self._index < self._blocks:
            self._remember(latents)
        pieces.append(self._decoding.finish())
        frames = np.concatenate(pieces)
        ms = {"denoise": clock.ms, "decode": self._decoding.ms}
        segment = Segment(frames, self._index - 1, self._start, self._spec.fps, ms)
        self._start += len(frames)
        return segment

    def _switch_prompt(self) -> None:
        """Switches to the prompt that starts at this block. Before the first block, encodes all prompts."""
        prompts = self._models.prompts
        if self._index == 0:
            self._tick(0, len(SIGMAS))
            for prompt in self._prompts.values():
                prompts.embed(prompt)
        if self._index in self._prompts:
            self._sampler.change_text(self._models.read(prompts.embed(self._prompts[self._index])))

    def _remember(self, latents: Tensor) -> None:
        """Appends the block to the history, and launches a GPU's next pass before waiting for the frames."""
        try:
            self._sampler.absorb(latents)
            if self._models.device.type == "cuda" and self._index not in self._prompts:
                self._sampler.launch()
        except Exception as error:
            # Most likely out of memory. The block is complete: it is returned first, the error raised next.
            self._problem = error

    def _recall(self) -> list[np.ndarray]:
        """Appends the clip to the history, once, and returns its decoded frames."""
        if self._clip is None:
            return []
        models, described = self._models, self._spec
        video = vae.from_pixels(self._clip, described.height, described.width, models.device)
        self._clip = None
        pieces = []
        for block in models.vae.encode(video[None]).split(described.latents_per_block, 1):
            self._tick(0, len(SIGMAS))
            self._sampler.absorb(block)
            self._decoding.start(block)
            pieces.append(self._decoding.finish())
        return pieces

    def _last_blocks(self, clip: np.ndarray) -> np.ndarray:
        count = self._spec.video_frames(self._spec.clip_blocks(len(clip)))
        self.notes += (f"The last {count} frames of the clip are the beginning of the video.",)
        return clip[len(clip) - count :]

    def _decoder(self, preview: bool) -> vae.VAE | taehv.TinyDecoder:
        if not preview:
            return self._models.vae
        if self._models.preview is None:
            self.notes += ("The preview decoder is not downloaded: frames come from the full one.",)
            return self._models.vae
        return self._models.preview
