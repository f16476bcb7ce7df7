"""What a run is to make, as the page understood it: the job, and what its sides are called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from backends.base import BackendSpec, Request
from backends.camera import CameraMove, each_latent, format_path
from backends.memory_plan import blocks_within, most_bytes
from backends.runtime.jobs import Job, Side
from qvg.config import CodecConfig
from ui import text
from ui.form.budget import MIB, Fate, TooSmall, first_miss, windowed

if TYPE_CHECKING:
    from ui.form.values import Form

Keys = tuple[str, ...]  # held during one latent frame


class NamedSide(NamedTuple):
    """A side of a run as the page calls it, and how it lives inside the budget."""

    name: str
    codec: CodecConfig
    fate: Fate

    @property
    def side(self) -> Side:
        return Side(self.codec, self.fate.policy, self.fate.ends_after)

    def told(self, spec: BackendSpec) -> str:
        """What it gives up, in words; empty where nothing."""
        return text.fate(self.fate.drops_from, self.fate.ends_after, spec)

    def blocks(self, asked: int) -> int:
        """It makes, of those asked for."""
        return asked if self.fate.ends_after is None else min(self.fate.ends_after, asked)


@dataclass(frozen=True, slots=True)
class Commission:
    """A request, what it was made from, and the sides it is made for."""

    spec: BackendSpec
    asked: Form
    request: Request
    sides: tuple[NamedSide, ...]

    def job(self, video: str = "", first_block: int = 0) -> Job:
        return Job(self.spec.id, self.request, tuple(side.side for side in self.sides), video, first_block)

    def settings(self) -> dict[str, Any]:
        """What a finished file remembers of how it was made."""
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
                    "policy": _plain(side.fate.policy),
                    "ends_after": side.fate.ends_after,
                    "drops_from": side.fate.drops_from,
                }
                for side in self.sides
            ],
            "form": self.asked.remembered(),
        }


def longer(
    made: Commission,
    blocks: int,
    more: int,
    walked: Sequence[Keys],
    path: Sequence[CameraMove],
    seed: int | None,
) -> Commission:
    """`made`, of which there are `blocks` blocks, gone on with for `more` of them along `path`.

    `walked` is where the camera went so far; `seed` draws other noise from here on. Raises TooSmall where a
    side could not have begun as it did, had its budget been known to hold so many blocks.
    """
    spec, total = made.spec, blocks + more
    steps = max(0, blocks * spec.latents_per_block - 1)  # the first frame is where the camera stands
    keys = [*walked[:steps], *[()] * (steps - len(walked)), *each_latent(path)]
    reseeds = tuple(each for each in made.request.reseeds if each[0] < blocks)
    if seed is not None:
        reseeds += ((blocks, seed),)
    moves = as_moves(keys)
    request = replace(made.request, blocks=total, moves=moves, reseeds=reseeds)
    asked = replace(made.asked, path=format_path(moves), blocks=total, as_path=False)
    sides = tuple(_going_on(side, made, blocks, total) for side in made.sides)
    return replace(made, request=request, asked=asked, sides=sides)


def _going_on(side: NamedSide, made: Commission, blocks: int, total: int) -> NamedSide:
    """How a side lives in its budget now that it is to be longer."""
    budget = int(made.asked.budget or 0) * MIB
    policy = side.fate.policy
    if not budget or most_bytes(made.spec, side.codec, policy, total) <= budget:
        return side._replace(fate=side.fate._replace(drops_from=first_miss(policy, total)))
    if made.asked.when_full == "stop":
        return side._replace(fate=Fate(policy, blocks_within(made.spec, side.codec, policy, total, budget)))
    fitting = windowed(made.spec, side.codec, replace(policy, window=None), total, budget)
    # A window that is wider than what was made has not been noticed yet.
    if policy.window is not None or fitting is None or (fitting.window or 0) + fitting.sink < blocks:
        raise TooSmall(side.name)
    return side._replace(fate=Fate(fitting, drops_from=first_miss(fitting, total)))


def as_moves(keys: Iterable[Keys]) -> tuple[CameraMove, ...]:
    return tuple(CameraMove(held, len(list(run))) for held, run in groupby(keys))


def _plain(config: Any) -> dict[str, Any]:
    # A preset may nest a config.
    return {
        name: _plain(value) if hasattr(value, "__dataclass_fields__") else value
        for name in config.__dataclass_fields__
        for value in [getattr(config, name)]
    }
