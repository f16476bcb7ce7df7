"""What the form says, as a job or as one sentence about what is wrong with it. No widget in here."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from backends.base import BackendSpec, Request
from backends.camera import CameraMove, PathError, parse_path
from backends.check import MAX_SEED, check
from backends.jobs import Job
from backends.plan import Plan, plan
from backends.worker import DeviceInfo
from qvg.config import BF16, PRESETS, BF16Config, CodecConfig, PRQConfig
from qvg.policy import CachePolicy
from ui.pictures import read_picture

QUANTISED = tuple(name for name, config in PRESETS.items() if not isinstance(config, BF16Config))
MAX_STAGES, MAX_ITERATIONS = 16, 64  # beyond, an encode takes minutes and cannot be stopped
_FAR = 10**12
BF16_NAME = next(name for name, config in PRESETS.items() if isinstance(config, BF16Config))


class FormError(ValueError):
    """The form cannot be run as it is; the message is a sentence for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The values of the widgets, as they come: any of them may be empty or absurd."""

    prompt: str | None = None
    picture: str | None = None  # a file
    seed: float | None = 0
    path: str | None
    quantised: bool
    preset: str | None
    blocks: float | None
    as_path: bool
    clusters: float | None
    group: float | None
    stages: float | None
    iterations: float | None
    every: float | None
    sink: float | None
    recent: float | None
    window: float | None
    mode: str | None = None

    def moves(self) -> tuple[CameraMove, ...]:
        try:
            return parse_path(self.path or "")
        except PathError as error:
            raise FormError(str(error)) from error

    def length(self, spec: BackendSpec) -> int:
        """Blocks to make."""
        blocks = _whole("The length", self.blocks)
        latents = sum(move.latents for move in self.moves()) if "camera" in spec.inputs else 0
        if self.as_path and latents:
            blocks = math.ceil(latents / spec.latents_per_block)
        if not 1 <= blocks <= spec.max_blocks:
            raise FormError(
                f"{spec.title} makes 1 to {spec.max_blocks} blocks, not {blocks:,}: choose another length."
            )
        return blocks

    def codec(self, spec: BackendSpec) -> CodecConfig:
        if not self.quantised:
            return BF16
        config = PRESETS.get(self.preset or "")
        if config is None:
            raise FormError(f"There is no preset {self.preset!r}: choose one of {', '.join(QUANTISED)}.")
        if not isinstance(config, PRQConfig):
            return config
        try:
            config = replace(
                config,
                clusters=_whole("Clusters", self.clusters),
                group=_whole("Group", self.group),
                stages=_whole("Stages", self.stages, MAX_STAGES),
                iterations=_whole("Iterations", self.iterations, MAX_ITERATIONS),
            )
            config.check_head_dim(spec.geometry.head_dim)
        except ValueError as error:
            raise FormError(f"Codec: {_sentence(error)}") from None
        return config

    def policy(self) -> CachePolicy:
        window = _whole("Window", self.window)
        try:
            return CachePolicy(
                every=_whole("Encode every", self.every),
                sink=_whole("Sink", self.sink),
                recent=_whole("Recent", self.recent),
                window=window or None,
            )
        except ValueError as error:
            raise FormError(f"Cache policy: {_sentence(error)}") from None

    def job(self, spec: BackendSpec) -> Job:
        """Raises FormError or PictureError."""
        seed = _whole("The seed", self.seed)
        if not 0 <= seed <= MAX_SEED:
            raise FormError(f"A seed lies between 0 and {MAX_SEED:,}; {seed:,} does not.")
        request = Request(
            prompt=(self.prompt or "").strip(),
            image=read_picture(self.picture) if self.picture and "image" in spec.inputs else None,
            moves=self.moves() if "camera" in spec.inputs else (),
            seed=seed,
            blocks=self.length(spec),
            mode=(self.mode or "") if spec.modes else "",
        )
        try:
            check(request, spec)
        except ValueError as error:
            raise FormError(str(error)) from None
        return Job(spec.id, request, self.codec(spec), self.policy())

    def plan(self, spec: BackendSpec, device: DeviceInfo | None) -> Plan:
        return plan(spec, self.codec(spec), self.policy(), self.length(spec), device)


def reseeded(asked: Form, seed: int) -> Form:
    return replace(asked, seed=seed)


def settings(job: Job, spec: BackendSpec, preset: str) -> dict[str, Any]:
    """What a finished file remembers of how it was made."""
    request, codec, policy = job.request, job.codec, job.policy
    return {
        "program": "QVG Studio",
        "model": spec.id,
        "prompt": request.prompt,
        "picture": None if request.image is None else list(request.image.shape[:2]),
        "path": ", ".join(str(move) for move in request.moves),
        "seed": request.seed,
        "blocks": request.blocks,
        "mode": request.mode,
        "codec": BF16_NAME if isinstance(codec, BF16Config) else preset,
        "codec_settings": _fields(codec),
        "policy": _fields(policy),
    }


def _fields(config: Any) -> dict[str, Any]:
    # Presets to come may nest a config for keys and one for values.
    return {
        name: _fields(value) if hasattr(value, "__dataclass_fields__") else value
        for name in config.__dataclass_fields__
        for value in [getattr(config, name)]
    }


def _whole(name: str, value: float | None, most: int = _FAR) -> int:
    if value is None or not math.isfinite(value):
        raise FormError(f"{name} is empty: write a number.")
    if value != int(value):
        raise FormError(f"{name} is a whole number, not {value}.")
    if abs(value) > most:
        raise FormError(f"{name} is at most {most:,}.")
    return int(value)


def _sentence(error: ValueError) -> str:
    return str(error).rstrip(".") + "."
