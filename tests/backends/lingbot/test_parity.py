"""LingBot-World's transformer, cameras and schedule against the authors' classes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backends.lingbot.cameras import ray_maps, relative_poses, resampled_poses
from backends.lingbot.transformer import LingBotTransformer
from backends.self_forcing.sampler import CachedHistory
from backends.self_forcing.transformer import Modulations, WanConfig
from backends.wan.schedule import add_noise, clean_latents, whole_steps
from qvg import CachePolicy
from tests.backends.lingbot.recorded import (
    COLUMNS,
    CONFIG,
    RECORDED,
    ROWS,
    build,
    cache,
    draw,
    rope,
    weights,
)

LENS = RECORDED["camera/lens"][0]
HEIGHT, WIDTH = 64, 96


def agrees(actual: Tensor, name: str, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, RECORDED[name], atol=tolerance, rtol=tolerance)


def given(image_latents: Tensor) -> Tensor:
    """The condition channels [1, F, 20, h, w] of a clip: a mask, then the picture's latents."""
    mask = torch.zeros(len(image_latents), 4, *image_latents.shape[2:])
    mask[0] = 1
    return torch.cat([mask, image_latents], 1)[None]


@pytest.mark.parametrize(
    ("shift", "rows"), [(5, (0, 250, 500, 750)), (10, (0, 250, 500, 750)), (10, (0, 179, 358, 679))]
)
def test_a_step_is_three_numbers(shift: int, rows: tuple[int, ...]) -> None:
    name = f"schedule/shift{shift}_{'_'.join(map(str, rows))}"
    steps = whole_steps(rows, shift)
    assert [step.t for step in steps] == RECORDED[f"{name}/t"].tolist()
    torch.testing.assert_close(torch.stack([step.clean for step in steps]), RECORDED[f"{name}/sigma_x0"])
    torch.testing.assert_close(torch.stack([step.noisy for step in steps]), RECORDED[f"{name}/sigma_noise"])


def test_weights_are_the_recorded_ones() -> None:
    for name, tensor in weights(LingBotTransformer(CONFIG)).items():
        assert torch.equal(tensor.flatten()[[0, -1]], RECORDED[f"weights/{name}"]), name


def test_rays_of_a_clip() -> None:
    motion = relative_poses(RECORDED["camera/between"])
    agrees(motion, "camera/relative")
    rays = ray_maps(motion, LENS, HEIGHT, WIDTH)
    agrees(rays[[0, 1, 6, 10]], "camera/plucker")


def test_a_path_is_spread_over_fewer_latents() -> None:
    agrees(resampled_poses(RECORDED["camera/poses"], 12), "camera/between")
    poses = RECORDED["camera/poses"]
    torch.testing.assert_close(resampled_poses(poses, 13), poses[::4], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(resampled_poses(poses[:1], 3), poses[:1].expand(3, 4, 4))


def test_a_camera_that_stands_still_is_the_identity() -> None:
    poses = RECORDED["camera/poses"][:1].repeat(5, 1, 1)
    torch.testing.assert_close(relative_poses(poses), torch.eye(4).repeat(5, 1, 1), atol=1e-6, rtol=0)


def test_a_fixed_divisor_keeps_the_scale_of_a_stream() -> None:
    poses = RECORDED["camera/between"]
    whole = relative_poses(poses, longest=0.5)
    parts = [relative_poses(poses[max(0, first - 1) : first + 3], longest=0.5) for first in range(0, 12, 3)]
    streamed = torch.cat([parts[0], *(part[1:] for part in parts[1:])])
    torch.testing.assert_close(streamed, whole)


@pytest.mark.parametrize("block", [0, 2])
def test_scale_and_shift_of_every_layer(block: int) -> None:
    rays = ray_maps(RECORDED["camera/relative"], LENS, HEIGHT, WIDTH)[None, 3 * block : 3 * block + 3]
    for layer, (scale, shift) in enumerate(build().modulations(rays)):
        agrees(scale[0], f"camera/scale{layer}@{block}")
        agrees(shift[0], f"camera/shift{layer}@{block}")


def run(
    name: str,
    policy: CachePolicy,
    frames: int,
    blocks: int,
    image_latents: Tensor,
    rays: Tensor,
    rows: tuple[int, ...],
    shift: float,
    kept: int,
) -> tuple[Tensor, Tensor]:
    """Samples a recorded clip through our cache: its latents, and the first `kept` flows of each block."""
    model = build()
    prompt = torch.cat([RECORDED["inputs/context"], torch.zeros(25, 48)])[None]
    text = model.read(prompt)
    history = cache(policy, frames)
    memory = CachedHistory(history, rope())
    steps = whole_steps(rows, shift)
    condition = given(image_latents)
    latents, flows = [], []
    for block in range(blocks):
        part = slice(frames * block, frames * (block + 1))
        modulations: Modulations = model.modulations(rays[None, part])
        noisy = RECORDED[f"{name}/noise"][None, part]
        seen = []
        clean = noisy
        for number, step in enumerate(steps):
            times = torch.full((1, frames), float(step.t))
            flow = model(noisy, times, text, memory, True, condition[:, part], modulations)
            assert flow is not None
            seen.append(flow[0])
            clean = clean_latents(noisy, flow, step.clean)
            if number + 1 < len(steps):
                again = RECORDED[f"{name}/renoise"][block * (len(steps) - 1) + number]
                noisy = add_noise(clean, again[None], steps[number + 1].noisy)
        model(clean, torch.zeros(1, frames), text, memory, False, condition[:, part], modulations)
        history.commit()
        latents.append(clean[0])
        flows.append(torch.stack(seen[:kept]))
    return torch.cat(latents), torch.stack(flows)


def test_four_blocks_that_see_everything() -> None:
    rays = ray_maps(RECORDED["camera/relative"], LENS, HEIGHT, WIDTH)
    latents, flows = run(
        "full",
        CachePolicy(every=2),
        3,
        4,
        RECORDED["inputs/image_latents"],
        rays,
        (0, 250, 500, 750),
        5,
        kept=4,
    )
    torch.testing.assert_close(flows, RECORDED["full/flow"][:, :4], atol=1e-5, rtol=1e-5)
    agrees(latents, "full/latents")


def test_a_window_of_9_latents_with_3_sinks() -> None:
    poses = RECORDED["window9_3/poses"][::4]
    rays = ray_maps(relative_poses(poses), LENS, HEIGHT, WIDTH)
    latents, flows = run(
        "window9_3",
        CachePolicy(every=1, sink=1, window=1),
        3,
        5,
        RECORDED["window9_3/image_latents"],
        rays,
        (0, 250, 500, 750),
        5,
        kept=1,
    )
    torch.testing.assert_close(flows, RECORDED["window9_3/flow"], atol=1e-5, rtol=1e-5)
    agrees(latents, "window9_3/latents")


def test_first_versions_steps() -> None:
    # 25 frames are 7 latents, of which 6 are whole blocks: the authors spread them over the whole path.
    motion = relative_poses(resampled_poses(RECORDED["camera/poses"][:25], 6))
    rays = ray_maps(motion, LENS, HEIGHT, WIDTH)
    image_latents = draw(3, 16, 6, 8, 12).transpose(0, 1)
    latents, flows = run("v1", CachePolicy(), 3, 2, image_latents, rays, (0, 179, 358, 679), 10, kept=4)
    torch.testing.assert_close(flows, RECORDED["v1/flow"], atol=1e-5, rtol=1e-5)
    agrees(latents, "v1/latents")


@pytest.mark.parametrize(
    ("config", "tensors", "parameters"),
    [
        (WanConfig(given_channels=20), 1_071, 1_709_502_016),
        (
            WanConfig(width=5120, ffn_width=13_824, heads=40, layers=40, given_channels=20),
            1_421,
            18_544_332_864,
        ),
    ],
    ids=["1.3B", "14B"],
)
def test_the_published_sizes(config: WanConfig, tensors: int, parameters: int) -> None:
    with torch.device("meta"):
        state = LingBotTransformer(config).state_dict()
    assert len(state) == tensors
    assert sum(tensor.numel() for tensor in state.values()) == parameters


def test_tokens_are_the_recorded_ones() -> None:
    model = build()
    noisy = RECORDED["full/noise"][None, :3]
    latents = torch.cat([noisy, given(RECORDED["inputs/image_latents"])[:, :3]], 2)
    tokens = model.patch_embedding(latents.transpose(1, 2))[0].flatten(1).T
    agrees(tokens, "embed/patch")
    assert tokens.shape[0] == 3 * ROWS * COLUMNS
