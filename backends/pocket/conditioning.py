"""Conditioning: style, terrain, and objects not yet visible in the history.

A prompt is turned into a layout: random positions for the requested objects, within the prompt's constraints,
and a skyline and a terrain, on which the transformer is always conditioned. It is conditioned on objects by a
coarse drawing, a few rays per token, until a picture taken from the camera's place has shown them and become
history. From then on the model must remember them: when the camera comes back, the video depends on its
memory, not on its prompt.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, fields
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from backends.pocket import vocabulary
from backends.pocket.geometry import FAR, hit
from backends.pocket.scene import (
    COLOURS,
    EYE,
    HORIZONTAL_FOV,
    LOW_HILLS,
    NO_HILLS,
    OBJECTS,
    RIPPLE_ACROSS,
    RIPPLE_ALONG,
    TILE,
    Scenes,
    pattern,
    pixel_rays,
    sample_backdrops,
    sizes,
)
from backends.pocket.spec import COLUMNS, ROWS
from backends.pocket.vocabulary import PromptWords

LOOK_FEATURES = len(vocabulary.PLACES) + len(vocabulary.TIMES)
SEEN_WITHIN = 0.8 * HORIZONTAL_FOV / 2  # from the middle of the picture
SEEN_FROM = 14.0  # metres
SAME_PLACE = 0.25  # metres
RAYS = 6  # rows and columns of rays in a token's part of the drawing
DRAWING_FEATURES = RAYS * RAYS * 8
POINTS = 2  # rows and columns of points at which a token is conditioned on the ground
BACKDROP_FEATURES = 4 + POINTS * POINTS * 11
_TOKEN = HORIZONTAL_FOV / COLUMNS  # radians, the width of a token


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """A batch of layouts. Values left out are unknown to the model.

    place      int64 [B], index into vocabulary.PLACES; -1 is left out
    time       int64 [B], index into vocabulary.TIMES; -1 is left out
    things     fp32  [B, OBJECTS, 6]: kind, x, z, radius, height, yaw as in `Scenes`; radius 0 is left out
    colour     int64 [B, OBJECTS], index into vocabulary.COLOURS
    hills      fp32  [B, HARMONICS, 2] as in `Scenes`
    ground     fp32  [B, 3] as in `Scenes`
    backdrop   bool  [B], whether hills and ground are included
    """

    place: Tensor
    time: Tensor
    things: Tensor
    colour: Tensor
    hills: Tensor
    ground: Tensor
    backdrop: Tensor

    def to(self, device: torch.device | str) -> Layout:
        return Layout(*(getattr(self, field.name).to(device) for field in fields(self)))

    @property
    def looks(self) -> Tensor:
        """Returns int64 [B], as in `Scenes`, of layouts with place and time."""
        return self.place * len(vocabulary.TIMES) + self.time

    def look(self) -> Tensor:
        """Returns fp32 [B, LOOK_FEATURES], one-hot for place and time; zeros if left out."""
        parts = ((self.place, len(vocabulary.PLACES)), (self.time, len(vocabulary.TIMES)))
        return torch.cat([F.one_hot(index + 1, count + 1)[:, 1:] for index, count in parts], 1).float()


Batch = TypeVar("Batch", Layout, Scenes)


def split(whole: Batch, size: int) -> list[Batch]:
    """Returns `whole` as batches of `size`, the last of which may be smaller."""
    columns = (getattr(whole, field.name).split(size) for field in fields(whole))
    return [type(whole)(*parts) for parts in zip(*columns, strict=True)]


def describe(scenes: Scenes) -> Layout:
    """Returns the complete layout of `scenes`."""
    place, time = scenes.look // len(vocabulary.TIMES), scenes.look % len(vocabulary.TIMES)
    backdrop = torch.ones_like(place, dtype=torch.bool)
    return Layout(
        place, time, scenes.objects[..., :6].clone(), scenes.colour, scenes.hills, scenes.ground, backdrop
    )


def sample_layouts(scenes: Scenes, first: Tensor, only_picture: Tensor, generator: torch.Generator) -> Layout:
    """Returns training layouts of `scenes`: complete, except for objects that a given picture shows.

    Of those, a layout has only what a prompt might have. The picture is the first frame of the videos that
    `only_picture` [B] selects, seen from `first` [B, 4]. Nothing else is ever left out: a model trained with
    objects it was not conditioned on makes up others.
    """
    full = describe(scenes)
    shown = in_sight(full.things, first.unsqueeze(1))[:, 0]
    things = full.things.clone()
    things[..., 3] = things[..., 3].masked_fill(shown & only_picture.unsqueeze(1), 0.0)
    unsaid = torch.rand(2, len(scenes), generator=generator, device=first.device) < 0.7
    place, time = (
        index.masked_fill(left_out & only_picture, -1)
        for index, left_out in zip((full.place, full.time), unsaid, strict=True)
    )
    return Layout(place, time, things, full.colour, full.hills, full.ground, ~only_picture)


def bearings(things: Tensor, poses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Returns (bearing in the world, distance, half the angle covered) of objects, each [B, F, O].

    In radians and metres; things [B, O, 6], poses [B, F, 4].
    """
    x = things[:, None, :, 1] - poses[..., 0, None]
    z = things[:, None, :, 2] - poses[..., 1, None]
    distance = (x * x + z * z).sqrt().clamp_min(0.3)
    covered = torch.asin((things[:, None, :, 3] / distance).clamp(max=0.95))
    return torch.atan2(x, z), distance, covered


def _wrap(angle: Tensor) -> Tensor:
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def in_sight(things: Tensor, poses: Tensor) -> Tensor:
    """Returns bool [B, F, OBJECTS]: whether a picture from each of `poses` shows an object well enough.

    That is an object well inside the picture, not too far, and with its middle behind no other object.
    """
    bearing, distance, covered = bearings(things, poses)
    ahead = _wrap(bearing - poses[..., 2, None]).abs() < SEEN_WITHIN
    apart = _wrap(bearing.unsqueeze(-1) - bearing.unsqueeze(-2)).abs()  # of i (rows) from j
    nearer = (distance.unsqueeze(-2) < distance.unsqueeze(-1)) & (things[:, None, None, :, 3] > 0)
    hidden = (nearer & (apart < covered.unsqueeze(-2))).any(-1)
    return ahead & ~hidden & (distance < SEEN_FROM) & (things[:, None, :, 3] > 0)


def seen_here(poses: Tensor, before: Tensor, shown: Tensor, counted: Tensor | None = None) -> Tensor:
    """Returns bool [B, F, OBJECTS]: objects that have been seen from the places of `poses` [B, F, 4].

    before [B, T, 4] are earlier poses and shown bool [B, T, OBJECTS] the objects `in_sight` from them;
    counted bool [F, T], if given, says which of them count for which frame.
    """
    near = (poses[:, :, None, :2] - before[:, None, :, :2]).norm(dim=-1) < SAME_PLACE
    near = near if counted is None else near & counted
    return near.float() @ shown.float() > 0


def unseen_by_block(layout: Layout, poses: Tensor, block: int) -> Tensor:
    """Returns bool [B, F, OBJECTS], the objects to be conditioned on at each frame of a whole video.

    Every `block` frames become history. The newest block of that history does not count: a walking camera
    sees every place for the first time.
    """
    at = torch.arange(poses.shape[1], device=poses.device) // block
    counted = at < at.unsqueeze(1) - 1
    return ~seen_here(poses, poses, in_sight(layout.things, poses), counted)


class Conditioning(NamedTuple):
    """The transformer's conditioning, for every token.

    drawing    fp32 [B, F, P, DRAWING_FEATURES], hits of rays through the token with the objects included:
               colour (3), whether there is a hit, surface normal (3), one over the distance in metres
    backdrop   fp32 [B, F, P, BACKDROP_FEATURES], skyline and ground at the token's rays
    """

    drawing: Tensor
    backdrop: Tensor


def condition(layout: Layout, poses: Tensor, unseen: Tensor) -> Conditioning:
    """Returns the conditioning on `layout` seen from `poses` [B, F, 4].

    `unseen` bool [B, F, OBJECTS] selects the objects, those that the history does not show.
    """
    skyline = _skyline_features(layout.hills, pixel_rays(poses, ROWS, COLUMNS).flatten(-3, -2))
    ground = _ground_features(layout.ground, poses, pixel_rays(poses, POINTS * ROWS, POINTS * COLUMNS))
    backdrop = torch.cat([skyline, ground], -1) * layout.backdrop[:, None, None, None]
    return Conditioning(_draw(layout, poses, unseen), backdrop)


def _by_token(x: Tensor, n: int) -> Tensor:
    """Returns [B, F, P, n * n * C] of x [B, F, n * ROWS, n * COLUMNS, C]."""
    return rearrange(x, "b f (r u) (q v) c -> b f (r q) (u v c)", u=n, v=n)


def _draw(layout: Layout, poses: Tensor, unseen: Tensor) -> Tensor:
    """Returns the drawing. An object that is left out still hides those behind it."""
    rays = pixel_rays(poses, RAYS * ROWS, RAYS * COLUMNS)
    dx, dy, dz = rays.flatten(-3, -2).unsqueeze(2).unbind(-1)  # [B, F, 1, R]
    eye = torch.stack([poses[..., 0], torch.full_like(poses[..., 0], EYE), poses[..., 1]], -1)
    thing = layout.things[:, None, :, None].unbind(-1)  # [B, 1, O, 1]
    distance, normal = hit(*thing, eye[:, :, None, None], dx, dy, dz)
    nearest, which = distance.min(dim=2)  # [B, F, R]
    met = (nearest < FAR) & unseen.gather(2, which)
    facing = normal.gather(2, which[:, :, None, :, None].expand(-1, -1, -1, -1, 3)).squeeze(2)
    palette = torch.tensor(COLOURS, device=poses.device)[layout.colour]  # [B, O, 3]
    flat = which.flatten(1).unsqueeze(-1).expand(-1, -1, 3)
    colour = palette.gather(1, flat).unflatten(1, which.shape[1:])
    near = (1 / nearest.clamp_min(0.5)).unsqueeze(-1)
    drawn = torch.cat([colour, torch.ones_like(near), facing, near], -1) * met.unsqueeze(-1)
    return _by_token(drawn.unflatten(2, rays.shape[2:4]), RAYS)


def _skyline_features(hills: Tensor, rays: Tensor) -> Tensor:
    """Returns [B, F, P, 4]: its height above a token's left, middle and right; whether it is included."""
    azimuth = torch.atan2(rays[..., 0], rays[..., 2])
    rise = rays[..., 1] / rays[..., [0, 2]].norm(dim=-1).clamp_min(1e-6)
    k = torch.arange(1, hills.shape[1] + 1, device=rays.device)
    above = []
    for side in (-0.5, 0.0, 0.5):
        angle = (azimuth + side * _TOKEN).unsqueeze(-1) * k
        cosine, sine = (hills[:, None, None, :, index] for index in (0, 1))
        skyline = (LOW_HILLS + (cosine * angle.cos() + sine * angle.sin()).sum(-1)).clamp_min(NO_HILLS)
        above.append(torch.tanh((skyline - rise) / _TOKEN))
    return torch.stack([*above, torch.ones_like(rise)], -1)


def _ground_features(ground: Tensor, poses: Tensor, rays: Tensor) -> Tensor:
    """Returns [B, F, P, POINTS^2 * 11]: phases of the pattern at the rays, faded far off; its rotation.

    rays [B, F, POINTS * ROWS, POINTS * COLUMNS, 3]
    """
    down = (-rays[..., 1]).clamp_min(0.02)
    reach = EYE / down
    turn = ground[:, 2, None, None, None]
    x, z = (poses[..., None, None, index] + reach * rays[..., 2 * index] for index in (0, 1))
    gx, gz = pattern(x, z, ground)
    blurred = reach * _TOKEN / POINTS / down / TILE
    near = (rays[..., 1] < -0.02) / (1 + (0.5 * blurred).square())
    along = torch.atan2(rays[..., 0], rays[..., 2]) + turn
    waves = (gx, gz, RIPPLE_ACROSS * gx, RIPPLE_ALONG * gz, along)
    phase = [*(wave.sin() for wave in waves), *(wave.cos() for wave in waves), torch.ones_like(gx)]
    return _by_token(torch.stack(phase, -1) * near.unsqueeze(-1), POINTS)


def plan(prompt: PromptWords, seed: int, beyond_picture: bool = False) -> Layout:
    """Returns one layout for `prompt`; random choices, from `seed`, settle what it leaves open.

    A few objects that are not in the prompt are placed outside the first view. With `beyond_picture`, all
    objects are, and place and time are included only if the prompt names them: the picture shows the rest.
    """
    chance = random.Random(f"layout {seed}")
    place = chance.randrange(len(vocabulary.PLACES))
    time = chance.choices(range(len(vocabulary.TIMES)), (5, 3, 2))[0]
    if beyond_picture:
        place = time = -1
    requested = [(thing.colour, thing.kind, thing.side, thing.reach) for thing in prompt.things]
    extra = chance.randint(5, 7) - len(requested)
    taken = {colour for colour, *_ in requested}
    free = [index for index in range(len(vocabulary.COLOURS)) if index not in taken]
    requested.sort(key=lambda thing: (thing[2] is None) + (thing[3] is None))  # the most constrained first
    wanted = [*requested, *((chance.choice(free), None, "around", None) for _ in range(extra if free else 0))]
    if not requested and not beyond_picture:
        wanted = [(*thing[:2], None if index < 3 else "around", None) for index, thing in enumerate(wanted)]
    things, colours = torch.zeros(1, OBJECTS, 6), torch.zeros(1, OBJECTS, dtype=torch.long)
    standing: list[tuple[float, float, float]] = []  # (bearing, distance, half the angle covered)
    for index, (colour, kind, side, reach) in enumerate(wanted[:OBJECTS]):
        kind = chance.randrange(len(vocabulary.KINDS)) if kind is None else kind
        if beyond_picture and side in (None, "ahead"):
            side = "around"
        bearing, distance, radius, height = _place(chance, standing, kind, side, reach)
        standing.append((bearing, distance, math.asin(radius / distance)))
        x, z = distance * math.sin(bearing), distance * math.cos(bearing)
        things[0, index] = torch.tensor([kind, x, z, radius, height, chance.uniform(0, math.pi)])
        colours[0, index] = chance.randrange(len(vocabulary.COLOURS)) if colour is None else colour
    place, time = (
        torch.tensor([b if a is None else a]) for a, b in ((prompt.place, place), (prompt.time, time))
    )
    hills, ground = sample_backdrops(1, torch.Generator().manual_seed(chance.getrandbits(48)))
    return Layout(place, time, things, colours, hills, ground, torch.tensor([not beyond_picture]))


_DEGREES = {
    "left": (-27, -9), "right": (9, 27), "ahead": (-13, 13), "behind": (150, 210), "around": (48, 312),
    None: (-28, 28),
}  # fmt: skip
_METRES = {"near": (4.0, 5.0), "far": (7.5, 10.5), None: (4.0, 7.2)}  # nearer ones do not fit the view
_FIRST_VIEW = math.radians(35)
_CROWDED = 5  # objects in the first view, after which others are placed around it
_TRIES = 60


def _place(
    chance: random.Random, standing: list[tuple[float, float, float]], kind: int,
    side: str | None, reach: str | None,
) -> tuple[float, float, float, float]:  # fmt: skip
    """Returns (bearing, distance, radius, height) as requested, not overlapping objects already placed.

    In a crowd, constraints are relaxed a little from one try to the next, and objects are smaller; the last
    resort is the most distant position.
    """
    ahead = sum(math.cos(bearing) > math.cos(_FIRST_VIEW) for bearing, *_ in standing)
    side = "around" if side is None and ahead >= _CROWDED else side
    (left, right), (near, far) = _DEGREES[side], _METRES[reach]
    best, most = (0.0, 5.0, 0.4, 0.8), -math.inf
    for attempt in range(_TRIES):
        ease = attempt / _TRIES
        size, tall = chance.random() * (1 - ease), chance.random()
        radius, height = (x.item() for x in sizes(*torch.tensor([kind, size, tall]).unbind()))
        bearing = math.radians(chance.uniform(left - 6 * ease, right + 6 * ease))
        distance = chance.uniform(near, far * (1 + 0.4 * ease))
        covered = math.asin(radius / distance)
        gaps = [abs(math.remainder(bearing - other, math.tau)) - width for other, _, width in standing]
        free = min(gaps, default=1.0) - covered
        if free > most:
            best, most = (bearing, distance, radius, height), free
        if free > math.radians(2):
            break
    return best
