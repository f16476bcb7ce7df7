"""LongCat-Video's rollout: a first clip, then continuations of the frames before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from backends.base import BackendSpec, Request, Segment, Tick
from backends.camera import CameraMove
from backends.longcat import image_latents, schedule
from backends.longcat.models import Models
from backends.longcat.sampler import Guidance, Sampler
from backends.longcat.schedule import Schedule
from backends.longcat.settings import FPS, FULL, LATENT_FRAMES, Settings, latents_of
from backends.longcat.spec import SPEC
from backends.longcat.transformer import Text
from qvg import BF16, Clock, KVCache

_SEED_STEP = 1_000_003  # a prime: blocks of neighbouring seeds draw different noise


@dataclass(frozen=True, slots=True, eq=False)
class Past:
    """The end of the video so far that a continuation is conditioned on."""

    frames: np.ndarray  # uint8 [T, H, W, 3], the newest frames
    latents: Tensor | None  # of the newest window, fp32 [1, C, F, h, w], if continuations use latents
    length: int  # of the whole video, in frames
    state: tuple[Tensor | str | None, ...] = ()  # of the decoder after those latents


@dataclass(frozen=True, slots=True, eq=False)
class Take:
    """A candidate for the next block. `past` is the video's end if it is accepted."""

    past: Past
    frames: np.ndarray  # uint8 [T, H, W, 3], those it adds
    ms: dict[str, float]


def seed_of(seed: int, block: int) -> int:
    """Returns the seed of one block's noise, which does not depend on the blocks before it."""
    return seed * _SEED_STEP + block


class LongCatRollout:
    """One video. `step` generates a block and keeps it; `imagine` and `accept` let one choose among several.

    The history in the cache depends only on the frames before a block: it is encoded once for all candidates
    for that block, whatever their prompts and seeds.
    """

    def __init__(
        self,
        models: Models,
        request: Request,
        cache: KVCache,
        tick: Tick,
        settings: Settings,
        size: tuple[int, int],
    ) -> None:
        """Starts a video. `size` (height, width) is used without a picture or clip. Raises ValueError."""
        if settings.distilled and models.adapter is None:
            raise ValueError("The distilled model's adapter is not here: choose full sampling.")
        if request.clip is not None and request.image is not None:
            raise ValueError("A picture and a clip cannot both be continued: leave one out.")
        self._models, self._cache, self._tick, self._settings = models, cache, tick, settings
        self._sampler = Sampler(models.transformer, models.team)
        self._device, self._dtype = models.transformer.device, models.transformer.dtype
        self._seed, self._blocks, self._index = request.seed, request.blocks, 0
        self._picture = self._clip = self._past = None
        if request.image is not None:
            size = image_latents.nearest_size(*request.image.shape[:2], models.sizes)
            self._picture = image_latents.resized(request.image[None], size)
        elif request.clip is not None:
            size = image_latents.nearest_size(*request.clip.shape[1:3], models.sizes)
            known = self._looked_back_on(len(request.clip))
            self._clip = image_latents.resized(request.clip[-known:], size)
            self._past = Past(self._clip, None, known)
        self._size = size
        self._remembered: tuple[Past, Tensor] | None = None  # the cache's content, and its latents
        self._prompts = {0: request.prompt, **{change.block: change.prompt for change in request.changes}}
        self._texts: dict[str, Text] = {}
        self._tokens: dict[str, Tensor] = {}
        tick(0, len(self._schedule(schedule.uniform)))
        # All at once, so that the text encoder is released before the first block.
        self._embed([*self._prompts.values(), *self._negatives])
        self.notes = tuple(self._notes())

    def step(self, move: CameraMove | None = None) -> Segment | None:
        if self._index >= self._blocks:
            return None
        return self.accept(self.imagine())

    @torch.inference_mode()
    def imagine(self, prompt: str | None = None, seed: int | None = None) -> Take:
        """Returns a candidate for the next block, with the request's prompt and seed or with others.

        The video does not change. The history is encoded if it was not yet.
        """
        if prompt is None:
            prompt = self._prompts[max(block for block in self._prompts if block <= self._index)]
        stages = _Stages(self._device)
        if self._models.adapter is not None:
            self._models.adapter.turn(self._settings.distilled)
        guidance = self._guidance(prompt)
        seed = self._seed if seed is None else seed
        make = self._begin if self._past is None else self._continue
        latents, known = make(guidance, seed, stages)
        with stages("decode"):
            past, frames = self._decode(latents, known)
        return Take(past, frames, stages.ms)

    def accept(self, take: Take) -> Segment:
        """Appends a candidate for this block to the video."""
        start, frames = take.past.length - len(take.frames), take.frames
        if self._clip is not None:
            # The continued clip is the beginning of the video.
            start, frames, self._clip = 0, np.concatenate([self._clip, frames]), None
        segment = Segment(frames, self._index, start, FPS, take.ms)
        self._past = take.past
        self._index += 1
        return segment

    def _begin(self, guidance: Guidance, seed: int, stages: _Stages) -> tuple[Tensor, int]:
        """Returns latents of a clip made from nothing or from a picture, and how many of them were known."""
        generator = self._generator(seed)
        noise = self._noise(latents_of(self._settings.window), generator, torch.float32)
        plan = self._schedule(schedule.uniform)
        if self._picture is None:
            with stages("denoise"):
                return self._sampler.denoise(noise, plan, guidance, self._tick), 0
        with stages("condition"):
            known = self._encode(self._picture, generator, torch.float32)
            # A cache of its own, since it is history of this block only; in full precision, as all frames
            # depend on this one.
            cache = KVCache(self._cache.geometry, BF16, frames_per_block=1, device=self._cache.device)
            counted = guidance.negative is not None and self._settings.projection == "upstream"
            norm = self._sampler.remember(cache, known, counted)
        with stages("denoise"):
            made = self._sampler.denoise(
                noise[:, :, 1:], plan, guidance, self._tick, cache, 0.0 if norm is None else norm
            )
        return torch.cat([known.float(), made], 2), 1

    def _continue(self, guidance: Guidance, seed: int, stages: _Stages) -> tuple[Tensor, int]:
        """Returns latents of a window, and how many of them were known."""
        past = self._past
        assert past is not None
        plan = self._schedule(schedule.continuing)
        known = self._known_frames(past)
        window = max(self._settings.window, known + self._settings.new_frames)
        noise = self._noise(latents_of(window), self._generator(seed), self._dtype)
        if self._remembered is None or self._remembered[0] is not past:
            self._tick(0, len(plan))
            with stages("condition"):
                if self._settings.source == "latents" and past.latents is not None:
                    latents = past.latents[:, :, -latents_of(known) :].to(self._dtype)
                else:
                    # Upstream draws the encoder's noise after the latents' noise. The video's own seed is
                    # used, so that all candidates have the same history.
                    generator = self._generator(self._seed)
                    self._noise(latents_of(window), generator, self._dtype)
                    latents = self._encode(past.frames[-known:], generator, self._dtype)
                # Until encoding ends, the cache has neither the last history nor this one.
                self._remembered = None
                self._sampler.remember(self._cache, latents)
                self._remembered = (past, latents)
        latents = self._remembered[1]
        with stages("denoise"):
            made = self._sampler.denoise(
                noise[:, :, latents.shape[2] :], plan, guidance, self._tick, self._cache
            )
        return torch.cat([latents.float(), made], 2), latents.shape[2]

    def _decode(self, latents: Tensor, known: int) -> tuple[Past, np.ndarray]:
        """Returns the video's end after the window `latents`, `known` of them old, and its new frames."""
        before, settings = self._past, self._settings
        goes_on = settings.source == "latents"
        state = list(before.state) if before is not None and before.state else []
        fresh = latents[:, :, known:] if state else latents
        count = LATENT_FRAMES * fresh.shape[2] - (0 if state else LATENT_FRAMES - 1)
        if self._models.team.leads:
            frames = np.concatenate(list(image_latents.decode(self._models.vae, fresh, state)))
        else:
            frames = np.zeros((count, *self._size, 3), np.uint8)
        new = count if before is None else LATENT_FRAMES * (latents.shape[2] - known)
        seen = frames
        if settings.source == "kept" and before is not None:
            seen = np.concatenate([before.frames, frames[-new:]])
        past = Past(
            frames=seen[-settings.condition_frames :],
            latents=latents if goes_on else None,
            length=new + (0 if before is None else before.length),
            state=tuple(state) if goes_on else (),
        )
        return past, frames[-new:]

    def _known_frames(self, past: Past) -> int:
        """Returns the number of frames that condition a continuation: whole latents of those there are."""
        there = len(past.frames)
        if self._settings.source == "latents" and past.latents is not None:
            there = 1 + LATENT_FRAMES * (past.latents.shape[2] - 1)
        return self._looked_back_on(there)

    def _looked_back_on(self, there: int) -> int:
        wanted = self._settings.condition_frames or there
        return 1 + LATENT_FRAMES * ((min(there, wanted) - 1) // LATENT_FRAMES)

    def _encode(self, frames: np.ndarray, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        vae, team = self._models.vae, self._models.team
        if team.leads:
            latents = image_latents.encode(vae, frames, generator, dtype)
        else:
            sides = (side // vae.scale for side in self._size)
            latents = torch.empty(
                1, vae.channels, latents_of(len(frames)), *sides, dtype=dtype, device=self._device
            )
        return team.from_leader(latents.to(self._device))

    def _generator(self, seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed_of(seed, self._index))

    def _noise(self, frames: int, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """Returns noise for a whole window, known frames too, as upstream. It is drawn on the CPU."""
        vae = self._models.vae
        shape = (1, vae.channels, frames, *(side // vae.scale for side in self._size))
        return torch.randn(shape, generator=generator, dtype=dtype).to(self._device)

    def _schedule(self, full: Callable[[int], Schedule]) -> Schedule:
        steps = self._settings.steps
        if self._settings.distilled:
            return schedule.distilled(steps or schedule.DISTILLED_STEPS)
        return full(steps or schedule.STEPS)

    @property
    def _negatives(self) -> list[str]:
        return [self._settings.negative] if self._settings.guided else []

    def _guidance(self, prompt: str) -> Guidance:
        prompts = [prompt, *self._negatives]
        self._embed(prompts)
        # A prompt's keys and values take up to 0.4 GB: those of earlier prompts are dropped.
        self._texts = {text: self._texts.get(text) or self._read(text) for text in prompts}
        positive, *negative = (self._texts[text] for text in prompts)
        return Guidance(positive, negative[0] if negative else None, self._settings.guidance)

    def _read(self, prompt: str) -> Text:
        return self._models.transformer.read(self._tokens[prompt])

    def _embed(self, prompts: list[str]) -> None:
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._tokens]
        if new:
            self._tokens.update(zip(new, self._models.embed(new), strict=True))

    def _notes(self) -> Iterator[str]:
        height, width = self._size
        if self._picture is not None or self._clip is not None:
            yield f"Made at {width} x {height}, the size nearest to the shape of what was given."
        if self._clip is not None:
            yield f"The last {len(self._clip)} frames of the clip are the beginning of the video."
        if self._settings.distilled:
            yield "Distilled sampling takes no negative prompt and no guidance."


class _Stages:
    """Timers of a block's stages, by name."""

    def __init__(self, device: torch.device) -> None:
        self._clocks = {name: Clock(device) for name in ("condition", "denoise", "decode")}

    def __call__(self, name: str) -> AbstractContextManager[None]:
        return self._clocks[name].running()

    @property
    def ms(self) -> dict[str, float]:
        return {name: clock.ms for name, clock in self._clocks.items()}


class LongCatBackend:
    def __init__(self, models: Models, settings: Settings = FULL, spec: BackendSpec = SPEC) -> None:
        """Creates the backend. Requests may override `settings`. The spec's heads are this process's."""
        self.models, self.settings, self.spec = models, settings, spec

    def open(self, request: Request, cache: KVCache, tick: Tick) -> LongCatRollout:
        """Starts a video. Raises ValueError for a request that cannot be generated."""
        settings = self.settings.changed(request.options)
        size = (self.spec.height, self.spec.width)
        return LongCatRollout(self.models, request, cache, tick, settings, size)
