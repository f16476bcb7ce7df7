"""What Pocket World is told, and what can be read back from its pictures."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange

from backends.pocket import vocabulary
from backends.pocket.conditioning import (
    BACKDROP_FEATURES,
    RAYS,
    SAME_PLACE,
    Conditioning,
    Layout,
    condition,
    describe,
    in_sight,
    plan,
    sample_layouts,
    unseen_by_block,
)
from backends.pocket.evaluation.detection import look_at
from backends.pocket.evaluation.prompts import built, followed, held_out_prompts, planned
from backends.pocket.evaluation.rollouts import rendered
from backends.pocket.render import reference
from backends.pocket.sampler import Sampler
from backends.pocket.scene import HARMONICS, LOOKS, OBJECTS, sample_scenes, sample_trajectories
from backends.pocket.spec import BLOCK_FRAMES, COLUMNS, ROWS
from backends.pocket.vocabulary import parse_prompt


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one(x: float, z: float, radius: float = 0.5, height: float = 1.0) -> Layout:
    things = torch.zeros(1, OBJECTS, 6)
    things[0, 0] = torch.tensor([1, x, z, radius, height, 0])
    zero = torch.zeros(1, dtype=torch.long)
    colour = torch.zeros(1, OBJECTS, dtype=torch.long)
    return Layout(
        zero,
        zero,
        things,
        colour,
        torch.zeros(1, HARMONICS, 2),
        torch.zeros(1, 3),
        torch.ones(1, dtype=torch.bool),
    )


def bearing(layout: Layout, index: int) -> float:
    return math.degrees(math.atan2(layout.things[0, index, 1], layout.things[0, index, 2]))


def distance(layout: Layout, index: int) -> float:
    return layout.things[0, index, 1:3].norm().item()


def turned(*degrees: float) -> torch.Tensor:
    poses = torch.zeros(1, len(degrees), 4)
    poses[0, :, 2] = torch.tensor(degrees).deg2rad()
    return poses


def test_a_thing_is_told_until_it_has_been_seen_from_here() -> None:
    layout = one(0, 5)
    poses = turned(90, 90, 0, 0, 0, 0, 90, 90, 0, 0, 0, 0)  # blocks of two
    unseen = unseen_by_block(layout, poses, 2)[0, :, 0]
    assert unseen.tolist() == [True] * 6 + [False] * 6, "the newest block does not count"
    aside = poses.clone()
    aside[0, -4:, 0] = torch.tensor([0.9, 0.9, 1.1, 1.1]) * SAME_PLACE
    assert unseen_by_block(layout, aside, 2)[0, -4:, 0].tolist() == [False] * 2 + [True] * 2
    assert unseen_by_block(layout, turned(*[90] * 12), 2).all(), "nobody looked"


def test_what_a_sampler_is_told_is_what_training_told() -> None:
    layout = describe(sample_scenes(1, generator(5)))
    poses = sample_trajectories(1, 40, generator(0), retrace=1.0)
    unseen = unseen_by_block(layout, poses, BLOCK_FRAMES)
    heard = []

    def view(rays: torch.Tensor, what: Conditioning) -> None:
        heard.append(what.drawing)

    models = SimpleNamespace(device="cpu", dtype=torch.float32, transformer=SimpleNamespace(view=view))
    sampler = Sampler(models, SimpleNamespace(frames=0), layout, seed=0)
    for block in poses.split(BLOCK_FRAMES, dim=1):
        sampler.view(block)
        sampler.remember(block)
    assert 0.1 < unseen[in_sight(layout.things, poses)].float().mean() < 0.9
    torch.testing.assert_close(torch.cat(heard, 1), condition(layout, poses, unseen).drawing)


def test_what_stands_behind_another_or_far_off_is_not_in_sight() -> None:
    layout = one(0, 5)
    layout.things[0, 1] = torch.tensor([0, 0.1, 8, 0.5, 1.0, 0])  # behind the first
    layout.things[0, 2] = torch.tensor([0, 2.0, 8, 0.5, 1.0, 0])
    layout.things[0, 3] = torch.tensor([0, 0, -30, 0.5, 1.0, 0])
    assert in_sight(layout.things, turned(0))[0, 0, :4].tolist() == [True, False, True, False]
    assert not in_sight(layout.things, turned(180)).any()


def drawn(layout: Layout, poses: torch.Tensor, unseen: torch.Tensor | None = None) -> torch.Tensor:
    """[F, RAYS * ROWS, RAYS * COLUMNS, 8] of the first layout."""
    unseen = torch.ones(*poses.shape[:2], OBJECTS, dtype=torch.bool) if unseen is None else unseen
    drawing = condition(layout, poses, unseen).drawing[0]
    return rearrange(drawing, "f (r q) (u v n) -> f (r u) (q v) n", r=ROWS, u=RAYS, v=RAYS)


def test_tokens_are_told_of_what_their_rays_meet() -> None:
    scenes = sample_scenes(1, generator(7))
    layout, poses = describe(scenes), turned(0, 120, 240)
    picture = drawn(layout, poses)
    bare = describe(scenes)
    bare.things[..., 3] = 0
    real, ground = (rendered(built(one), poses[0])[0] for one in (layout, bare))
    changed = F.adaptive_avg_pool2d((real - ground).abs().amax(1), (RAYS * ROWS, RAYS * COLUMNS)) > 0.1
    met = picture[..., 3] > 0
    assert 0.02 < met.float().mean() < 0.6
    # Shadows change the ground too, and pixels at an edge are of both.
    assert changed[met].float().mean() > 0.9 and (met & changed).sum() > 0.6 * changed.sum()
    torch.testing.assert_close(
        picture[met][:, 4:7].norm(dim=-1), torch.ones(int(met.sum())), atol=1e-3, rtol=0
    )
    assert not picture[~met].any()


def test_a_thing_that_is_not_told_hides_what_is_behind_it() -> None:
    layout = one(0, 4)
    layout.things[0, 1] = torch.tensor([1, 0, 8, 0.4, 0.8, 0])
    unseen = torch.ones(1, 1, OBJECTS, dtype=torch.bool)
    both = drawn(layout, turned(0), unseen)
    unseen[..., 0] = False
    assert both.any() and not drawn(layout, turned(0), unseen).any()


def test_skyline_and_ground_are_told_where_rays_meet_them() -> None:
    scenes = sample_scenes(1, generator(4))
    layout, everything = describe(scenes), torch.ones(1, 1, OBJECTS, dtype=torch.bool)
    backdrop = condition(layout, turned(30), everything).backdrop.view(ROWS, COLUMNS, BACKDROP_FEATURES)
    assert backdrop.isfinite().all()
    above = backdrop[..., 1]
    assert (above[0] < 0).all() and (above[-1] > 0).all(), (
        "the skyline is below the first row, above the last"
    )
    assert not backdrop[0, :, 4:].any() and backdrop[-1, :, 4:].any(dim=-1).all(), "ground is told below it"
    nothing = condition(layout, turned(30), ~everything)
    assert (nothing.backdrop.view(backdrop.shape) == backdrop).all() and not nothing.drawing.any()
    assert not condition(replace(layout, backdrop=~layout.backdrop), turned(30), everything).backdrop.any()


def test_training_tells_all_but_what_a_picture_shows() -> None:
    scenes, first = sample_scenes(100, generator()), torch.zeros(100, 4)
    full = describe(scenes)
    shown = in_sight(full.things, first.unsqueeze(1))[:, 0]
    for given in (torch.zeros(100, dtype=torch.bool), torch.ones(100, dtype=torch.bool)):
        layout = sample_layouts(scenes, first, given, generator(1))
        told = layout.things[..., 3] > 0
        assert (told == ((full.things[..., 3] > 0) & ~(shown & given[:, None]))).all()
        assert (layout.things[told] == full.things[told]).all() and (layout.backdrop != given).all()
        assert (layout.look().sum(dim=1) == 2).all() == (not given.any())


@pytest.mark.parametrize("seed", range(8))
def test_a_plan_is_what_was_asked_for(seed: int) -> None:
    asked = "a red box on the left, two blue pillars far away, a green ball behind, snow, at dusk"
    layout = plan(parse_prompt(asked), seed)
    assert (layout.place, layout.time) == (vocabulary.PLACES.index("snow"), vocabulary.TIMES.index("dusk"))
    there = layout.things[0, :, 3] > 0
    named = [
        (vocabulary.COLOURS[colour], vocabulary.KINDS[int(kind)])
        for colour, kind in zip(layout.colour[0, there], layout.things[0, there, 0], strict=True)
    ]
    assert named.count(("red", "box")) == named.count(("green", "ball")) == 1
    assert named.count(("blue", "pillar")) == 2 and 5 <= len(named) <= OBJECTS
    assert -35 < bearing(layout, named.index(("red", "box"))) < 0
    assert abs(bearing(layout, named.index(("green", "ball")))) > 120
    assert distance(layout, named.index(("blue", "pillar"))) > 7
    for index in range(4, len(named)):
        assert abs(bearing(layout, index)) > 40 and named[index][0] not in ("red", "blue", "green")


def test_a_seed_is_a_plan() -> None:
    words_ = parse_prompt("a red box")
    a, b, c = plan(words_, 1), plan(words_, 1), plan(words_, 2)
    assert (a.things == b.things).all() and (a.things != c.things).any()


def test_nothing_is_planned_into_a_picture_that_is_given() -> None:
    for seed in range(8):
        layout = plan(parse_prompt("a red box ahead and a blue cone"), seed, beyond_picture=True)
        assert layout.place == layout.time == -1
        there = [index for index in range(OBJECTS) if layout.things[0, index, 3] > 0]
        assert there and all(abs(bearing(layout, index)) > 40 for index in there)
    assert plan(parse_prompt("snow"), 0, beyond_picture=True).place == vocabulary.PLACES.index("snow")


def test_an_empty_prompt_is_a_furnished_world() -> None:
    looks = set()
    for seed in range(12):
        layout = plan(parse_prompt(""), seed)
        looks.add((int(layout.place), int(layout.time)))
        first_view = in_sight(layout.things, turned(0))[0, 0]
        assert first_view.any() and (layout.things[0, :, 3] > 0).sum() >= 5
    assert len(looks) > 4


def test_nine_things_can_be_asked_for() -> None:
    layout = plan(parse_prompt("4 red boxes and 4 blue balls and 4 green cones"), 3)
    assert (layout.things[..., 3] > 0).all() and layout.things.isfinite().all()


def test_held_out_prompts_are_understood_whole() -> None:
    prompts = held_out_prompts(40)
    assert len(set(prompts)) == 40
    for text in prompts:
        parsed = parse_prompt(text)
        assert not parsed.unknown and parsed.things, text
        assert all(thing.colour is not None and thing.kind is not None for thing in parsed.things), text


@pytest.mark.parametrize("kind", vocabulary.KINDS)
@pytest.mark.parametrize("where", ["desert, dusk", "meadow, night"])
def test_a_rendered_thing_is_read_back(kind: str, where: str) -> None:
    layout = planned([f"a blue {kind} ahead, {where}"])
    picture = reference.render(built(layout), torch.zeros(1, 4), 128, 224)
    (seen,) = look_at(picture, int(layout.place * len(vocabulary.TIMES) + layout.time))
    found = {(vocabulary.COLOURS[s.colour], vocabulary.KINDS[s.kind]): s.bearing for s in seen}
    assert ("blue", kind) in found, found
    assert math.degrees(found["blue", kind]) == pytest.approx(bearing(layout, 0), abs=2)


def test_ground_and_sky_are_not_taken_for_things() -> None:
    scenes = sample_scenes(LOOKS, generator(2))
    scenes.objects[..., 3] = 0
    scenes.look.copy_(torch.arange(LOOKS))
    pictures = reference.render(scenes, sample_trajectories(LOOKS, 30, generator(3))[:, -1], 128, 224)
    seen = [
        len(look_at(picture[None], int(look))[0]) for picture, look in zip(pictures, scenes.look, strict=True)
    ]
    assert sum(seen) <= 1, seen


def test_a_model_that_renders_follows_its_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Renderer:
        """As perfect a model as there can be, or one that ignores what it is told."""

        def __init__(self, listens: bool) -> None:
            self.models = SimpleNamespace(device="cpu")
            self.listens = listens

        def roll(self, poses: torch.Tensor, layout: Layout) -> tuple[torch.Tensor, None]:
            scenes = built(layout)
            if not self.listens:
                scenes.objects[..., 3] = 0
            return rendered(scenes, poses), None

    monkeypatch.setattr("backends.pocket.evaluation.prompts.TURN", 2)
    monkeypatch.setattr("backends.pocket.evaluation.prompts.EVERY", 1)
    monkeypatch.setattr("backends.pocket.evaluation.prompts.held_out_prompts", lambda count: PROMPTS[:count])
    good, deaf = (followed(Renderer(listens), count=2, at_once=2) for listens in (True, False))
    assert good["pairs"] == good["counts"] == good["sides"] == 100
    assert deaf["pairs"] == deaf["counts"] == deaf["sides"] == 0
    assert good["by chance"] == 0


PROMPTS = ["a red ball on the left, snow, day", "two blue cones ahead, desert, day"]
