"""Prompt following of Pocket World: held-out prompts, a full turn each, and the requested objects seen."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import fields

import torch
from torch import Tensor

from backends.pocket import vocabulary
from backends.pocket.conditioning import Layout, plan, split
from backends.pocket.evaluation.detection import Sighting, look_at
from backends.pocket.evaluation.rollouts import HeldOut, poses_along, rendered
from backends.pocket.scene import COLOURS, Scenes
from backends.pocket.vocabulary import PromptWords, Thing, parse_prompt

SEED = 40_000
TURN = 144  # frames of a full turn
EVERY = 3  # frames
SAME = math.radians(7)  # bearings closer than this belong to one object
_SIDES = {"left": (-math.pi, -0.05), "right": (0.05, math.pi), "ahead": (-0.25, 0.25)}


def held_out_prompts(count: int) -> list[str]:
    """Returns prompts of one to three groups of objects, mostly with a place, a time, or positions."""
    chance = random.Random(SEED)

    def group() -> str:
        number = chance.choices((1, 2, 3), (7, 2, 1))[0]
        colour, kind = chance.choice(vocabulary.COLOURS), chance.choice(vocabulary.KINDS)
        many = {"box": "boxes"}.get(kind, kind + "s")
        text = f"a {colour} {kind}" if number == 1 else f"{('two', 'three')[number - 2]} {colour} {many}"
        side = chance.choice(("", "", " on the left", " on the right", " ahead", " behind"))
        return text + side + chance.choice(("", "", "", " far away", " near"))

    def prompt() -> str:
        parts = [group() for _ in range(chance.choices((1, 2, 3), (2, 5, 3))[0])]
        parts += [chance.choice(vocabulary.PLACES)] if chance.random() < 0.8 else []
        parts += [chance.choice(vocabulary.TIMES)] if chance.random() < 0.7 else []
        return ", ".join(parts)

    return [prompt() for _ in range(count)]


def planned(prompts: list[str]) -> Layout:
    """Returns a layout for each of `prompts`, each with a seed of its own."""
    each = [plan(parse_prompt(text), SEED + index) for index, text in enumerate(prompts)]
    return Layout(*(torch.cat([getattr(one, field.name) for one in each]) for field in fields(Layout)))


def built(layout: Layout) -> Scenes:
    """Returns scenes with exactly the content of `layout`."""
    objects = torch.cat([layout.things, torch.tensor(COLOURS)[layout.colour]], -1)
    return Scenes(layout.looks, objects, layout.colour, layout.hills, layout.ground)


def followed(evaluation: HeldOut, count: int = 40, at_once: int = 20) -> dict[str, float]:
    """Returns shares in per cent: requested objects that generated turns show, and those shown by chance.

    pairs       requested (colour, kind) pairs that are visible in the turn
    rendered    the same for the renderer's pictures of the planned worlds: the limit of this measurement
    by chance   the pairs of another prompt, in the same videos
    counts      requested pairs that are visible as many times as requested
    sides       objects requested to the left, to the right or ahead that are there in the first view
    """
    prompts = [parse_prompt(text) for text in held_out_prompts(count)]
    layout = planned(held_out_prompts(count))
    poses = poses_along(f"right-{TURN}", TURN)
    made, real = [], []
    for part in split(layout, at_once):
        video, _ = evaluation.roll(poses, layout=part)
        made += [*_around(video[:, ::EVERY], poses[::EVERY], part)]
        truth = rendered(built(part).to(evaluation.models.device), poses[::EVERY])
        real += [*_around(truth, poses[::EVERY], part)]
    other = [*prompts[1:], prompts[0]]
    return {
        "pairs": _share(_pairs(made, prompts)),
        "rendered": _share(_pairs(real, prompts)),
        "by chance": _share(_pairs(made, other, unless=prompts)),
        "counts": _share(_pairs(made, prompts, all_of_them=True)),
        "counts rendered": _share(_pairs(real, prompts, all_of_them=True)),
        "sides": _share(_sides(made, prompts)),
        "sides rendered": _share(_sides(real, prompts)),
    }


Around = list[list[tuple[Sighting, float]]]  # by frame: sightings, and their bearings in the world


def _around(video: Tensor, poses: Tensor, layout: Layout) -> Iterator[Around]:
    for pictures, look in zip(video, layout.looks.tolist(), strict=True):
        yield [
            [(seen, seen.bearing + float(pose[2])) for seen in frame]
            for frame, pose in zip(look_at(pictures, look), poses, strict=True)
        ]


def _seen(around: Around, thing: Thing) -> list[float]:
    """Returns bearings in the world of objects of this colour and kind seen in two frames or more."""
    at = [
        bearing
        for frame in around
        for seen, bearing in frame
        if (seen.colour, seen.kind) == (thing.colour, thing.kind)
    ]
    places: list[list[float]] = []
    for bearing in at:
        near = [place for place in places if abs(math.remainder(place[-1] - bearing, math.tau)) < SAME]
        if near:
            near[0].append(bearing)
        else:
            places.append([bearing])
    return [place[0] for place in places if len(place) >= 2]


def _pairs(
    around: list[Around], prompts: list[PromptWords], unless: list[PromptWords] | None = None,
    all_of_them: bool = False,
) -> Iterator[bool]:  # fmt: skip
    for index, (video, prompt) in enumerate(zip(around, prompts, strict=True)):
        pairs = {(thing.colour, thing.kind) for thing in prompt.things}
        if unless is not None:
            pairs -= {(thing.colour, thing.kind) for thing in unless[index].things}
        for colour, kind in sorted(pairs):
            asked = sum((thing.colour, thing.kind) == (colour, kind) for thing in prompt.things)
            yield len(_seen(video, Thing(colour, kind))) >= (asked if all_of_them else 1)


def _sides(around: list[Around], prompts: list[PromptWords]) -> Iterator[bool]:
    for video, prompt in zip(around, prompts, strict=True):
        for thing in prompt.things:
            if thing.side in _SIDES:
                low, high = _SIDES[thing.side]
                yield any(
                    low <= seen.bearing <= high
                    for seen, _ in video[0]
                    if (seen.colour, seen.kind) == (thing.colour, thing.kind)
                )


def _share(found: Iterator[bool]) -> float:
    values = [*found]
    return 100 * sum(values) / len(values)
