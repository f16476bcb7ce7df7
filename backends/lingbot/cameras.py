"""Camera rays as LingBot-World is conditioned on them: the origin and direction of each pixel's ray.

Poses map camera coordinates to world coordinates, with OpenCV's axes: x right, y down, z forward. A latent
frame's rays are in the coordinates of the frame before it, so that the model only sees motion
(wan/utils/cam_utils.py of Robbyant/lingbot-world-v2).
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

CELL = 8  # pixels a latent cell covers, each way
RAY_CHANNELS = 6 * CELL * CELL  # origin and direction of the rays of a cell's pixels
SMALLEST_STEP = 1e-6  # a clip whose longest step is at most this is not normalized


def resampled_poses(poses: Tensor, count: int) -> Tensor:
    """Returns fp32 [count, 4, 4]: `poses` [N, 4, 4] at `count` equally spaced times, the ends included.

    Positions are interpolated linearly, rotations along the shortest arc.
    """
    poses = poses.double()
    at = torch.linspace(0, len(poses) - 1, count, dtype=torch.float64, device=poses.device)
    before = at.floor().long().clamp(max=max(0, len(poses) - 2))
    after = (before + 1).clamp(max=len(poses) - 1)
    share = (at - before)[:, None, None]
    first, turn = poses[before], poses[before, :3, :3].mT @ poses[after, :3, :3]
    result = first + share * (poses[after] - first)
    result[:, :3, :3] = first[:, :3, :3] @ _partly(turn, share)
    return result.float()


def _partly(turn: Tensor, share: Tensor) -> Tensor:
    """Returns rotations [N, 3, 3] about the axes of `turn`, by `share` [N, 1, 1] of their angles."""
    # The antisymmetric part of a rotation is its axis times the sine of its angle.
    sine = (turn - turn.mT) / 2
    size = (sine.square().sum((1, 2), keepdim=True) / 2).sqrt()
    angle = torch.atan2(size, (turn.diagonal(dim1=1, dim2=2).sum(1) - 1)[:, None, None] / 2)
    axis = sine / size.clamp(min=1e-12)
    part = share * angle
    eye = torch.eye(3, dtype=turn.dtype, device=turn.device)
    return eye + part.sin() * axis + (1 - part.cos()) * (axis @ axis)


def relative_poses(poses: Tensor, longest: float | None = None) -> Tensor:
    """Returns every pose [F, 4, 4] in the coordinates of the one before it; the first is the identity.

    Translations are divided by `longest`, or, as upstream does for a whole clip, by the longest of them. A
    clip that stands still is not divided.
    """
    motion = torch.linalg.inv(poses[:-1].double()) @ poses[1:].double()
    motion = torch.cat([torch.eye(4, dtype=torch.float64, device=poses.device)[None], motion])
    if longest is None:
        longest = float(motion[:, :3, 3].norm(dim=-1).max())
    if longest > SMALLEST_STEP:
        motion[:, :3, 3] /= longest
    return motion.float()


def ray_maps(motion: Tensor, lens: Tensor, height: int, width: int) -> Tensor:
    """Returns fp32 [F, RAY_CHANNELS, height / 8, width / 8] for relative poses [F, 4, 4].

    `lens` [4] is focal length and center in pixels of the picture: fx, fy, cx, cy. A channel is `quantity *
    64 + row * 8 + column` within its cell; quantities are the origin and the unit direction, three numbers
    each.
    """
    fx, fy, cx, cy = lens.float()
    y, x = torch.meshgrid(
        torch.arange(height, device=motion.device) + 0.5,
        torch.arange(width, device=motion.device) + 0.5,
        indexing="ij",
    )
    direction = torch.stack([(x - cx) / fx, (y - cy) / fy, torch.ones_like(x)], -1)
    direction = direction / direction.norm(dim=-1, keepdim=True)
    turned = torch.einsum("fij,hwj->fihw", motion[:, :3, :3].float(), direction)
    origin = motion[:, :3, 3, None, None].float().expand_as(turned)
    rays = torch.cat([origin, turned], 1)
    return rearrange(rays, "f c (h u) (w v) -> f (c u v) h w", u=CELL, v=CELL)
