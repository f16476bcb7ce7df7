"""Values of the form, and their validation: a request and its sides, or one sentence about what is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from backends.base import BackendSpec, PromptChange, Request
from backends.camera import CameraMove, PathError, parse_path
from backends.memory_plan import MIB, BudgetTooSmall, Plan, WhenFull, codec_for, fit_budget, plan
from backends.plain_text import COLON, excerpt, read_number
from backends.runtime.hardware import DeviceInfo
from backends.runtime.jobs import Side
from backends.validation import MAX_SEED, check
from qvg.config import PRESETS, BF16Config, CodecConfig, PRQConfig
from qvg.policy import CachePolicy
from ui import text
from ui.form import camera_path
from ui.form.clips import read_clip
from ui.form.pictures import read_picture

QUANTIZED = tuple(name for name, config in PRESETS.items() if not isinstance(config, BF16Config))
MAX_STAGES, MAX_ITERATIONS = 16, 64  # above, an encode takes minutes and cannot be stopped
MAX_SIDES = 4
# Names of the form's numbers, in the order of the page.
CODEC_NUMBERS = ("clusters", "group", "stages", "iterations")
POLICY_NUMBERS = ("every", "sink", "recent", "window", "on_card", "attention_bits")
Memory = Literal["quantised", "bf16", "compare"]
_FAR = 10**12
FIRST_SEED = 2  # gives a good world for the first example
BF16_NAME = next(name for name, config in PRESETS.items() if isinstance(config, BF16Config))


class FormError(ValueError):
    """Error of a form that cannot be run; the message is a sentence for the user."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The values of the widgets, unvalidated: any of them may be empty or absurd."""

    prompt: str | None = ""
    picture: str | None = None  # a file
    clip: str | None = None  # a file
    changes: str | None = ""  # lines of `block: prompt`, blocks from 2
    preview: bool = False
    options: Sequence[str | None] | None = ()  # values of the model's own settings, in their order
    seed: float | None = 0
    path: str | None
    memory: Memory
    sides: Sequence[str] | None = ()  # presets to compare, the first one the reference
    budget: float | None = 0  # MiB; 0 is no limit
    when_full: WhenFull = "drop"
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
    on_card: float | None = 0  # MiB of encoded history kept on the device; 0 is all
    attention_bits: float | None = 16
    mode: str | None = ""  # id of one of the model's modes, if it has several

    def moves(self, spec: BackendSpec) -> tuple[CameraMove, ...]:
        """Returns the camera moves of the path. Raises FormError."""
        try:
            return parse_path(self.path or "", spec.metres_per_latent, spec.degrees_per_latent)
        except PathError as error:
            raise FormError(str(error)) from error

    def length(self, spec: BackendSpec) -> int:
        """Returns the number of blocks to generate. Raises FormError."""
        blocks = _whole("The length", self.blocks)
        latents = sum(move.latents for move in self.moves(spec)) if "camera" in spec.inputs else 0
        if self.as_path and latents:
            blocks = math.ceil(latents / spec.latents_per_block)
        if not 1 <= blocks <= spec.max_blocks:
            raise FormError(
                f"{spec.title} makes 1 to {spec.max_blocks} blocks, not {blocks:,}: choose another length."
            )
        return blocks

    def prompt_changes(self, blocks: int) -> tuple[PromptChange, ...]:
        """Returns the changes of the prompt in a video of `blocks` blocks, by block from 0; the page counts
        from 1. Raises FormError."""
        found: dict[int, str] = {}
        for line in filter(str.strip, (self.changes or "").splitlines()):
            number, *rest = COLON.split(line, maxsplit=1)
            block, words = read_number(number), "".join(rest).strip()
            if not isinstance(block, int) or not words:
                raise FormError(text.no_prompt_change(line.strip()[:40]))
            if not 2 <= block <= blocks:
                raise FormError(text.no_such_block(block, blocks))
            found[block - 1] = words
        return tuple(PromptChange(block, found[block]) for block in sorted(found))

    def own_settings(self, spec: BackendSpec) -> tuple[tuple[str, str], ...]:
        """Returns the model's own settings that differ from their defaults, as (name, value)."""
        chosen = tuple(self.options or ())
        pairs = zip(spec.options, chosen, strict=False)
        return tuple((option.name, value) for option, value in pairs if value in option.values[1:])

    def names(self) -> tuple[str, ...]:
        """Returns the presets this form runs, the reference first. Raises FormError."""
        if self.memory == "bf16":
            return (BF16_NAME,)
        if self.memory == "quantised":
            return (self.preset or "",)
        names = tuple(self.sides or ())
        if not 2 <= len(names) <= MAX_SIDES or len(set(names)) < len(names):
            raise FormError(f"Choose 2 to {MAX_SIDES} different presets to compare, not {len(names)}.")
        return names

    def codec(self, spec: BackendSpec, name: str) -> CodecConfig:
        """Returns the preset `name`; the form's numbers apply to the one chosen in the form. Raises
        FormError."""
        config = PRESETS.get(name)
        if config is None:
            raise FormError(f"There is no preset {excerpt(name)}: choose one of {', '.join(PRESETS)}.")
        if name != self.preset:
            return codec_for(spec, name)
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

    def policy(self, spec: BackendSpec) -> CachePolicy:
        """Returns the usual policy of `spec` with the form's own numbers. Raises FormError."""
        window = _whole("Window", self.window)
        try:
            return replace(
                usual_policy(spec, self.mode or ""),
                every=_whole("Span", self.every),
                sink=_whole("Sink", self.sink),
                recent=_whole("Recent", self.recent),
                window=window or None,
                device_bytes=_whole("On the card", self.on_card) * MIB or None,
                attention_bits=_whole("Attention bits", self.attention_bits),
            )
        except ValueError as error:
            raise FormError(f"Cache policy: {_sentence(error)}") from None

    def named_sides(self, spec: BackendSpec) -> tuple[Side, ...]:
        """Returns one side for each preset of `names`, within the memory budget. Raises FormError."""
        policy, blocks = self.policy(spec), self.length(spec)
        budget = _whole("The memory budget", self.budget) * MIB
        if budget < 0:
            raise FormError("The memory budget is 0 for none, or more.")
        sides = []
        for name in self.names():
            side = Side(name, self.codec(spec, name), policy)
            try:
                sides.append(fit_budget(spec, side, blocks, budget, self.when_full) if budget else side)
            except BudgetTooSmall as error:
                raise FormError(text.budget_too_small(name, str(error))) from None
        return tuple(sides)

    def request(self, spec: BackendSpec) -> Request:
        """Returns the request to the model. Raises FormError, PictureError or ClipError."""
        if any(_is_broken(words) for words in (self.prompt, self.changes, self.path, self.mode)):
            raise FormError(text.HALF_A_CHARACTER)
        seed = _whole("The seed", self.seed)
        if not 0 <= seed <= MAX_SEED:
            raise FormError(f"A seed lies between 0 and {MAX_SEED:,}; {seed:,} does not.")
        request = Request(
            prompt=(self.prompt or "").strip(),
            image=read_picture(self.picture) if self.picture and "image" in spec.inputs else None,
            moves=self.moves(spec) if "camera" in spec.inputs else (),
            seed=seed,
            blocks=self.length(spec),
            mode=(self.mode or "") if spec.modes else "",
            clip=read_clip(self.clip, spec) if self.clip and "clip" in spec.inputs else None,
            changes=self.prompt_changes(self.length(spec)) if "changes" in spec.inputs else (),
            preview=self.preview and "preview" in spec.inputs,
            options=self.own_settings(spec),
        )
        try:
            check(request, spec)
        except ValueError as error:
            raise FormError(str(error)) from None
        return request

    def plans(self, spec: BackendSpec, device: DeviceInfo | None) -> tuple[Plan, ...]:
        """Returns the memory plan of every side as if it ran alone. Raises FormError."""
        blocks = self.length(spec)
        return tuple(
            plan(spec, side.codec, side.policy, side.blocks(blocks), device)
            for side in self.named_sides(spec)
        )

    def remembered(self) -> dict[str, Any]:
        """Returns the values to store in a file, to fill the form again. Pictures and clips stay with their
        owner."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        del values["picture"], values["clip"]
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @staticmethod
    def recalled(
        values: Mapping[str, Any], spec: BackendSpec, picture: str | None = None, clip: str | None = None
    ) -> Form:
        """Returns a form from the values stored in a file, of any version. Missing or absurd values become
        defaults."""
        form = default_form(spec)
        known = {field.name: type(getattr(form, field.name)) for field in fields(Form)}
        kept: dict[str, Any] = {}
        for name, value in values.items():
            kind = known.get(name)
            if name == "options" and isinstance(value, list):
                kept[name] = tuple(each if isinstance(each, str) else None for each in value)
            elif kind is tuple and isinstance(value, list):
                kept[name] = tuple(each for each in value if isinstance(each, str) and each in PRESETS)
            elif kind is int:
                if isinstance(value, (int, float)) and not isinstance(value, bool):
                    kept[name] = value
            elif kind in (str, bool) and isinstance(value, kind):
                kept[name] = value
        if kept.get("memory") not in get_args(Memory):
            kept.pop("memory", None)
        if kept.get("when_full") not in get_args(WhenFull):
            kept.pop("when_full", None)
        if kept.get("preset") not in QUANTIZED:
            kept.pop("preset", None)
        return replace(form, picture=picture, clip=clip, **kept)


def usual_policy(spec: BackendSpec, mode: str) -> CachePolicy:
    """Returns the cache policy of one of a model's modes, or of the model."""
    return next((each.policy for each in spec.modes if each.id == mode), spec.policy)


def default_form(spec: BackendSpec, preset: str = QUANTIZED[0], mode: str = "") -> Form:
    """Returns the form's defaults for a model, and for one of its modes or the first."""
    chosen = next((each for each in spec.modes if each.id == mode), spec.modes[0] if spec.modes else None)
    config, policy = codec_for(spec, preset), chosen.policy if chosen else spec.policy
    numbers = config if isinstance(config, PRQConfig) else PRQConfig()
    return Form(
        prompt=spec.examples[0] if spec.examples else "",
        seed=FIRST_SEED,
        path=camera_path.FIRST if "camera" in spec.inputs else "",
        memory="quantised",
        sides=(BF16_NAME, QUANTIZED[0]),
        budget=0,
        when_full="drop",
        preset=preset,
        blocks=spec.default_blocks,
        as_path=False,
        clusters=numbers.clusters,
        group=numbers.group,
        stages=numbers.stages,
        iterations=numbers.iterations,
        every=policy.every,
        sink=policy.sink,
        recent=policy.recent,
        window=policy.window or 0,
        on_card=(policy.device_bytes or 0) // MIB,
        attention_bits=policy.attention_bits,
        mode=chosen.id if chosen else "",
    )


def _whole(name: str, value: float | None, most: int = _FAR) -> int:
    """Returns `value` as an int. Raises FormError with `name` if it is empty, not whole, or larger than
    `most`."""
    if value is None or not math.isfinite(value):
        raise FormError(f"{name} is empty: write a number.")
    if value != int(value):
        raise FormError(f"{name} is a whole number, not {value}.")
    if abs(value) > most:
        raise FormError(f"{name} is at most {most:,}.")
    return int(value)


def _sentence(error: ValueError) -> str:
    return str(error).rstrip(".") + "."


def _is_broken(words: str | None) -> bool:
    """Returns whether a text contains a lone surrogate: no file and no message can encode one."""
    return any("\ud800" <= character <= "\udfff" for character in words or "")
