"""Specification of a run: a validated form, and the request and the sides that it describes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from backends.base import BackendSpec, Request
from backends.camera import CameraMove, each_latent, format_path
from backends.memory_plan import MIB, fit_longer
from backends.runtime.jobs import Job, Side
from ui.form.values import Form
from ui.format import plural

Keys = tuple[str, ...]  # camera keys pressed during one latent frame


@dataclass(frozen=True, slots=True)
class RunSpec:
    """A request for a model, the sides to generate, and the form that they come from."""

    spec: BackendSpec
    form: Form
    request: Request
    sides: tuple[Side, ...]

    @property
    def name(self) -> str:
        """Returns the run's title in lists."""
        sides = " | ".join(side.name for side in self.sides)
        prompt = self.request.prompt or self.spec.title
        return f"{prompt[:80]} · {sides} · {plural(self.request.blocks, 'block')}"

    def job(self, video: str = "", first_block: int = 0) -> Job:
        """Returns the job for the worker; `video` and `first_block` are those of `Job`."""
        return Job(self.spec.id, self.request, self.sides, video, first_block)

    def settings(self) -> dict[str, Any]:
        """Returns the run's settings for run.json and the metadata of its videos."""
        request = self.request
        return {
            "program": "QVG Studio",
            "model": self.spec.id,
            "prompt": request.prompt,
            "picture": None if request.image is None else list(request.image.shape[:2]),
            "path": format_path(request.moves),
            "seed": request.seed,
            "reseeds": [list(each) for each in request.reseeds],
            "blocks": request.blocks,
            "mode": request.mode,
            "clip": None if request.clip is None else list(request.clip.shape[:3]),
            "changes": [[change.block, change.prompt] for change in request.changes],
            "preview": request.preview,
            "options": dict(request.options),
            "sides": [
                {
                    "codec": side.name,
                    "codec_settings": _plain(side.codec),
                    "policy": _plain(side.policy),
                    "ends_after": side.ends_after,
                    "drops_from": side.drops_from,
                }
                for side in self.sides
            ],
            "form": self.form.remembered(),
        }


def parse(form: Form, spec: BackendSpec) -> RunSpec:
    """Returns the run that a form describes. Raises FormError, PictureError or ClipError."""
    return RunSpec(spec, form, form.request(spec), form.named_sides(spec))


def extend(
    run: RunSpec,
    blocks: int,
    more: int,
    walked: Sequence[Keys],
    path: Sequence[CameraMove],
    seed: int | None,
) -> RunSpec:
    """Extends `run`, of which `blocks` blocks exist, by `more` blocks along `path`.

    `walked` are the keys of each latent frame so far; `seed` replaces the noise of the new blocks. Raises
    BudgetTooSmall if the longer video would have needed another policy from the start.
    """
    spec, form, total = run.spec, run.form, blocks + more
    steps = max(0, blocks * spec.latents_per_block - 1)  # the first latent frame is the start pose
    keys = [*walked[:steps], *[()] * (steps - len(walked)), *each_latent(path)]
    reseeds = tuple(each for each in run.request.reseeds if each[0] < blocks)
    if seed is not None:
        reseeds += ((blocks, seed),)
    moves = as_moves(keys)
    request = replace(run.request, blocks=total, moves=moves, reseeds=reseeds)
    budget = int(form.budget or 0) * MIB
    sides = tuple(fit_longer(spec, side, blocks, total, budget, form.when_full) for side in run.sides)
    form = replace(form, path=format_path(moves), blocks=total, as_path=False)
    return replace(run, request=request, form=form, sides=sides)


def as_moves(keys: Iterable[Keys]) -> tuple[CameraMove, ...]:
    """Returns the camera moves that press these keys, one entry per latent frame."""
    return tuple(CameraMove(held, len(list(run))) for held, run in groupby(keys))


def _plain(config: Any) -> dict[str, Any]:
    """Returns a config's fields as values for JSON, nested configs included."""
    return {
        name: _plain(value) if hasattr(value, "__dataclass_fields__") else value
        for name in config.__dataclass_fields__
        for value in [getattr(config, name)]
    }
