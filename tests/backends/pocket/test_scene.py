import math

import pytest
import torch

from backends.camera import each_latent, parse_path
from backends.pocket.render import reference
from backends.pocket.scene import (
    LOOKS,
    MAX_PITCH,
    OBJECTS,
    STEP,
    TURN,
    Scenes,
    advance,
    hide_obstacles,
    integrate,
    pixel_rays,
    sample_scenes,
    sample_trajectories,
    velocities,
)
from backends.pocket.spec import SPEC


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def one_object(kind: int, x: float, z: float, radius: float = 0.6, height: float = 1.2) -> Scenes:
    scenes = sample_scenes(1, generator())
    objects = torch.zeros(1, OBJECTS, 9)
    objects[0, 0] = torch.tensor([kind, x, z, radius, height, 0.0, 1.0, 0.0, 0.0])
    return Scenes(torch.zeros(1, dtype=torch.long), objects, scenes.colour, scenes.hills * 0, scenes.ground)


def test_one_frame_at_a_time_is_the_whole_trajectory() -> None:
    path = parse_path("w-9, right+w-12, up-20, a-5, left-30, s+d-4, down-40")
    keys = list(each_latent(path))
    whole = integrate(torch.tensor([velocities(k) for k in keys]))
    pose = (0.0, 0.0, 0.0, 0.0)
    for k, expected in zip(keys, whole[1:], strict=True):
        pose = advance(pose, k)
        assert pose == pytest.approx(expected.tolist(), abs=1e-4)
    assert whole[:, 3].abs().max() <= MAX_PITCH + 1e-6


def test_walking_and_turning_go_where_they_should() -> None:
    turned = integrate(torch.tensor([velocities(("right",))] * 36))[-1]
    assert math.degrees(turned[2]) == pytest.approx(90, abs=1e-3)
    walked = integrate(torch.tensor([velocities(("right",))] * 36 + [velocities(("w",))] * 10))[-1]
    assert walked[0] == pytest.approx(1.2, abs=1e-4) and walked[1] == pytest.approx(0, abs=1e-4)


def test_the_page_draws_the_map_at_the_worlds_scale() -> None:
    assert pytest.approx(STEP) == SPEC.metres_per_latent
    assert math.degrees(TURN) == pytest.approx(SPEC.degrees_per_latent)


def test_retraced_trajectories_visit_the_same_poses() -> None:
    poses = sample_trajectories(64, 160, generator(), retrace=1.0)
    for trajectory in poses:
        assert len({tuple(pose) for pose in (trajectory * 1e4).round().tolist()}) <= 81


def test_rays_are_unit_and_centred() -> None:
    rays = pixel_rays(torch.zeros(1, 4), 9, 15)
    assert torch.allclose(rays.norm(dim=-1), torch.ones(1, 9, 15), atol=1e-6)
    assert torch.allclose(rays[0, 4, 7], torch.tensor([0.0, 0.0, 1.0]), atol=1e-6)


@pytest.mark.parametrize("kind", [0, 1, 2, 3])
def test_an_object_ahead_is_seen_ahead_and_one_to_the_right_on_the_right(kind: int) -> None:
    poses = torch.zeros(1, 4)
    ahead = reference.render(one_object(kind, 0.0, 4.0), poses, 32, 56)[0]
    right = reference.render(one_object(kind, 1.6, 4.0), poses, 32, 56)[0]
    nothing = reference.render(one_object(kind, 0.0, -4.0), poses, 32, 56)[0]
    for picture, columns in ((ahead, slice(24, 32)), (right, slice(38, 50))):
        red = (picture[0] - picture[1:].amax(0)) > 0.25
        assert red.any() and not red[:, : columns.start - 5].any() and red[:, columns].any()
    assert not ((nothing[0] - nothing[1:].amax(0)) > 0.25).any()


def test_pictures_are_in_range_and_finite_for_every_look() -> None:
    scenes = sample_scenes(2 * LOOKS, generator(3))
    scenes.look.copy_(torch.arange(2 * LOOKS) % LOOKS)
    pictures = reference.render(scenes, sample_trajectories(2 * LOOKS, 50, generator(4))[:, -1], 16, 28)
    assert pictures.isfinite().all() and pictures.min() >= 0 and pictures.max() <= 1
    assert pictures.std(dim=(1, 2, 3)).min() > 0.02


def test_the_camera_walks_through_nothing() -> None:
    poses = sample_trajectories(32, 80, generator(1))
    scenes = hide_obstacles(sample_scenes(32, generator(2)), poses)
    gap = (poses[:, :, None, :2] - scenes.objects[:, None, :, 1:3]).norm(dim=-1).amin(dim=1)
    present = scenes.objects[..., 3] > 0
    assert (gap[present] > scenes.objects[..., 3][present] + 0.69).all()
    assert present.any() and not present.all()


def _triton_here() -> bool:
    try:
        import triton  # noqa: F401
    except ImportError:
        return False
    return torch.cuda.is_available()


@pytest.mark.gpu
@pytest.mark.skipif(not _triton_here(), reason="the Triton renderer needs a GPU")
def test_the_kernel_is_the_reference() -> None:
    from backends.pocket.render.triton import render

    scenes = sample_scenes(2 * LOOKS, torch.Generator("cuda").manual_seed(0))
    scenes.look.copy_(torch.arange(2 * LOOKS) % LOOKS)
    poses = sample_trajectories(2 * LOOKS, 60, torch.Generator("cuda").manual_seed(1))[:, -1]
    gap = (render(scenes, poses, 61, 107) - reference.render(scenes, poses, 61, 107)).abs()
    assert gap.mean() < 1e-4 and (gap > 0.02).float().mean() < 1e-3
