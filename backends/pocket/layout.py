"""What Pocket World is told of a world: its look, and where things stand until they have been seen.

A prompt is planned into a layout: places are drawn for the things it asks for, within what it says of them.
The transformer is told of a thing, for every token, how the token's ray passes it, from the first frame until
a block that showed the thing has become history. After that it has to be remembered: what a video shows when
the camera comes back is up to its memory, not to its prompt.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from backends.pocket import words
from backends.pocket.spec import COLUMNS, ROWS
from backends.pocket.words import PromptWords
from backends.pocket.world import EYE, HORIZONTAL_FOV, OBJECTS, Scenes, pixel_rays, sizes

LOOK_FEATURES = len(words.PLACES) + len(words.TIMES)
SEEN_WITHIN = 0.8 * HORIZONTAL_FOV / 2  # of the middle of the picture
SEEN_FROM = 14.0  # metres
_TOKEN = HORIZONTAL_FOV / COLUMNS  # radians a token is wide
_GEOMETRY = 9
THING_FEATURES = _GEOMETRY + len(words.COLOURS) + len(words.KINDS)


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """A batch of them.

    place      int64 [B], index into words.PLACES; -1 is untold
    time       int64 [B], index into words.TIMES; -1 is untold
    things     fp32  [B, OBJECTS, 5]: kind, x, z, radius, height as in `Scenes`; radius 0 is absent or untold
    colour     int64 [B, OBJECTS], index into words.COLOURS
    """

    place: Tensor
    time: Tensor
    things: Tensor
    colour: Tensor

    def to(self, device: torch.device | str) -> Layout:
        return Layout(*(t.to(device) for t in (self.place, self.time, self.things, self.colour)))

    def look(self) -> Tensor:
        """fp32 [B, LOOK_FEATURES], one-hot for place and time; zeros where untold."""
        parts = ((self.place, len(words.PLACES)), (self.time, len(words.TIMES)))
        return torch.cat([F.one_hot(index + 1, count + 1)[:, 1:] for index, count in parts], 1).float()


def describe(scenes: Scenes) -> Layout:
    """All there is to tell of `scenes`."""
    place, time = scenes.look // len(words.TIMES), scenes.look % len(words.TIMES)
    return Layout(place, time, scenes.objects[..., :5].clone(), scenes.colour)


def sample_layouts(scenes: Scenes, generator: torch.Generator) -> Layout:
    """What training tells of `scenes`: mostly all; sometimes nothing, as for a picture without a prompt."""
    full = describe(scenes)
    batch, device = len(scenes), full.place.device

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    no_things = rand(batch, 1) < 0.15
    hidden = no_things | (rand(batch, OBJECTS) < 0.06)
    things = full.things.clone()
    things[..., 3] = things[..., 3].masked_fill(hidden, 0.0)
    unsaid = no_things.squeeze(1) & (rand(batch) < 0.7)
    return Layout(full.place.masked_fill(unsaid, -1), full.time.masked_fill(unsaid, -1), things, full.colour)


def bearings(things: Tensor, poses: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(bearing in the world, distance, half the angle it covers), each [B, F, O], of things seen from poses.

    Radians and metres; things [B, O, 5], poses [B, F, 4].
    """
    x = things[:, None, :, 1] - poses[..., 0, None]
    z = things[:, None, :, 2] - poses[..., 1, None]
    distance = (x * x + z * z).sqrt().clamp_min(0.3)
    covered = torch.asin((things[:, None, :, 3] / distance).clamp(max=0.95))
    return torch.atan2(x, z), distance, covered


def _wrap(angle: Tensor) -> Tensor:
    return torch.remainder(angle + math.pi, 2 * math.pi) - math.pi


def in_sight(things: Tensor, poses: Tensor) -> Tensor:
    """bool [B, F, O]: well inside the picture, not too far, and its middle behind no other thing."""
    bearing, distance, covered = bearings(things, poses)
    ahead = _wrap(bearing - poses[..., 2, None]).abs() < SEEN_WITHIN
    apart = _wrap(bearing.unsqueeze(-1) - bearing.unsqueeze(-2)).abs()  # of i (rows) from j
    nearer = (distance.unsqueeze(-2) < distance.unsqueeze(-1)) & (things[:, None, None, :, 3] > 0)
    hidden = (nearer & (apart < covered.unsqueeze(-2))).any(-1)
    return ahead & ~hidden & (distance < SEEN_FROM) & (things[:, None, :, 3] > 0)


def told_by_block(things: Tensor, poses: Tensor, block: int) -> Tensor:
    """bool [B, F, O]: what is still told at each frame; blocks of `block` frames become history in turn."""
    shown = in_sight(things, poses).unflatten(1, (-1, block)).any(dim=2)
    before = shown.int().cummax(dim=1).values.roll(1, dims=1)
    before[:, 0] = 0
    return ((before == 0) & (things[:, None, :, 3] > 0)).repeat_interleave(block, dim=1)


def thing_features(layout: Layout, poses: Tensor, told: Tensor) -> tuple[Tensor, Tensor]:
    """(features [B, F, P, O, THING_FEATURES], weight [B, F, P, O]) of every token and thing.

    How the token's ray passes the thing, what it is, and how much it matters there; told [B, F, O].
    """
    rays = pixel_rays(poses, ROWS, COLUMNS).flatten(-3, -2)  # [B, F, P, 3]
    azimuth, elevation = torch.atan2(rays[..., 0], rays[..., 2]), torch.asin(rays[..., 1].clamp(-1, 1))
    bearing, distance, covered = (part.unsqueeze(2) for part in bearings(layout.things, poses))
    off = _wrap(bearing - azimuth.unsqueeze(-1))  # [B, F, P, O]
    radius, height = layout.things[:, None, None, :, 3], layout.things[:, None, None, :, 4]
    over_foot = elevation.unsqueeze(-1) - torch.atan2(torch.full_like(distance, -EYE), distance)
    over_top = elevation.unsqueeze(-1) - torch.atan2(height - EYE, distance)
    covers = (off.abs() < covered) & (radius > 0)
    nearer = distance.unsqueeze(-2) < distance.unsqueeze(-1)  # of i (rows) stands j
    behind = (nearer & covers.unsqueeze(-2)).any(-1)
    relative = off / covered.clamp_min(1e-3)
    geometry = [
        relative.clamp(-3, 3) / 3, torch.exp(-relative.square()), torch.tanh(off / _TOKEN),
        torch.tanh(over_foot / _TOKEN), torch.tanh(over_top / _TOKEN), behind.float(),
        (2 * covered).expand_as(off), (1 / distance).expand_as(off), (distance / 8).expand_as(off),
    ]  # fmt: skip
    kind = F.one_hot(layout.things[..., 0].long(), len(words.KINDS))
    colour = F.one_hot(layout.colour, len(words.COLOURS))
    named = torch.cat([kind, colour], -1).to(off.dtype)[:, None, None].expand(*off.shape, -1)
    aside = (off.abs() - covered - 0.5 * _TOKEN).clamp_min(0)
    weight = torch.exp(-0.5 * (aside / _TOKEN).square()) * (told.unsqueeze(2) & (radius > 0))
    return torch.cat([torch.stack(geometry, -1), named], -1), weight


def plan(prompt: PromptWords, seed: int, beyond_picture: bool = False) -> Layout:
    """One layout of what `prompt` asks for; chance, of `seed`, settles what it leaves open.

    A few things nobody asked for stand around, outside the first view. With `beyond_picture`, all things do,
    and place and time are told only if the prompt names them: the picture shows the rest.
    """
    chance = random.Random(f"layout {seed}")
    place = chance.randrange(len(words.PLACES))
    time = chance.choices(range(len(words.TIMES)), (5, 3, 2))[0]
    if beyond_picture:
        place = time = -1
    asked = [(thing.colour, thing.kind, thing.side, thing.reach) for thing in prompt.things]
    extra = chance.randint(5, 7) - len(asked)
    taken = {colour for colour, *_ in asked}
    free = [index for index in range(len(words.COLOURS)) if index not in taken]
    asked.sort(key=lambda thing: (thing[2] is None) + (thing[3] is None))  # the choosy ones first
    wanted = [*asked, *((chance.choice(free), None, "around", None) for _ in range(extra if free else 0))]
    if not asked and not beyond_picture:
        wanted = [(*thing[:2], None if index < 3 else "around", None) for index, thing in enumerate(wanted)]
    things, colours = torch.zeros(1, OBJECTS, 5), torch.zeros(1, OBJECTS, dtype=torch.long)
    standing: list[tuple[float, float, float]] = []  # (bearing, distance, half the angle covered)
    for index, (colour, kind, side, reach) in enumerate(wanted[:OBJECTS]):
        kind = chance.randrange(len(words.KINDS)) if kind is None else kind
        if beyond_picture and side in (None, "ahead"):
            side = "around"
        bearing, distance, radius, height = _place(chance, standing, kind, side, reach)
        standing.append((bearing, distance, math.asin(radius / distance)))
        x, z = distance * math.sin(bearing), distance * math.cos(bearing)
        things[0, index] = torch.tensor([kind, x, z, radius, height])
        colours[0, index] = chance.randrange(len(words.COLOURS)) if colour is None else colour
    told = (prompt.place, place), (prompt.time, time)
    return Layout(*(torch.tensor([b if a is None else a]) for a, b in told), things, colours)


_DEGREES = {
    "left": (-27, -9), "right": (9, 27), "ahead": (-13, 13), "behind": (150, 210), "around": (48, 312),
    None: (-28, 28),
}  # fmt: skip
_METRES = {"near": (4.0, 5.0), "far": (7.5, 10.5), None: (4.0, 7.2)}  # nearer, their feet are out of view
_FIRST_VIEW = math.radians(35)
_CROWDED = 5  # things in the first view after which others stand around
_TRIES = 60


def _place(
    chance: random.Random, standing: list[tuple[float, float, float]], kind: int,
    side: str | None, reach: str | None,
) -> tuple[float, float, float, float]:  # fmt: skip
    """(bearing, distance, radius, height) as asked, apart from what stands already or as far as can be.

    Where it is crowded, what is asked is taken a little more widely from one try to the next, and things are
    smaller.
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
