"""Intersection of rays with the objects of a scene."""

from __future__ import annotations

import torch
from torch import Tensor

from backends.pocket.scene import EYE

FAR = 1.0e6  # metres, for a ray without a hit


def hit(
    kind: Tensor, ox: Tensor, oz: Tensor, radius: Tensor, height: Tensor, yaw: Tensor,
    origin: Tensor, dx: Tensor, dy: Tensor, dz: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Returns the distance along the ray (FAR where it misses) and the surface normal.

    The object is a ball, a box, a pillar or a cone standing on the ground.
    """
    px, pz = origin[..., 0] - ox, origin[..., 2] - oz
    py = EYE - radius
    b = px * dx + py * dy + pz * dz
    c = px * px + py * py + pz * pz - radius * radius
    root = b * b - c
    ball = torch.where(root > 0, -b - root.clamp_min(0).sqrt(), FAR)
    ball = torch.where(ball > 0.05, ball, FAR)
    ball_normal = torch.stack([px + ball * dx, py + ball * dy, pz + ball * dz], -1)
    ball_normal = ball_normal / radius.clamp_min(1e-3).unsqueeze(-1)

    cos, sin = yaw.cos(), yaw.sin()
    lx, lz = px * cos - pz * sin, px * sin + pz * cos
    ex, ez = dx * cos - dz * sin, dx * sin + dz * cos
    ix, iy, iz = (1 / torch.where(e.abs() < 1e-6, 1e-6, e) for e in (ex, dy, ez))
    x0, x1 = (-radius - lx) * ix, (radius - lx) * ix
    y0, y1 = -EYE * iy, (height - EYE) * iy
    z0, z1 = (-radius - lz) * iz, (radius - lz) * iz
    nx, ny, nz = torch.minimum(x0, x1), torch.minimum(y0, y1), torch.minimum(z0, z1)
    enter = torch.maximum(torch.maximum(nx, ny), nz)
    leave = torch.minimum(torch.minimum(torch.maximum(x0, x1), torch.maximum(y0, y1)), torch.maximum(z0, z1))
    box = torch.where((enter < leave) & (enter > 0.05), enter, FAR)
    side_x, side_z = (nx >= ny) & (nx >= nz), nz > torch.maximum(nx, ny)
    fx, fz = torch.where(side_x, -ex.sign(), 0.0), torch.where(side_z, -ez.sign(), 0.0)
    fy = torch.where(side_x | side_z, 0.0, -dy.sign())
    box_normal = torch.stack([fx * cos + fz * sin, fy, fz * cos - fx * sin], -1)

    a = (dx * dx + dz * dz).clamp_min(1e-9)
    b = px * dx + pz * dz
    root = b * b - a * (px * px + pz * pz - radius * radius)
    wall = (-b - root.clamp_min(0).sqrt()) / a
    at = EYE + wall * dy
    wall = torch.where((root > 0) & (wall > 0.05) & (at > 0) & (at < height), wall, FAR)
    lid = (height - EYE) * iy
    lid_x, lid_z = px + lid * dx, pz + lid * dz
    lid = torch.where((lid > 0.05) & (lid_x * lid_x + lid_z * lid_z < radius * radius), lid, FAR)
    pillar = torch.minimum(wall, lid)
    on_lid = (lid < wall).unsqueeze(-1)
    round_normal = torch.stack([px + wall * dx, torch.zeros_like(px + wall), pz + wall * dz], -1)
    round_normal = round_normal / radius.clamp_min(1e-3).unsqueeze(-1)
    lid_normal = torch.stack(
        [torch.zeros_like(wall), -dy.sign() + torch.zeros_like(wall), torch.zeros_like(wall)], -1
    )
    pillar_normal = torch.where(on_lid, lid_normal, round_normal)

    slope = (radius / height.clamp_min(1e-3)).square()
    below = height - EYE  # from the eye up to the tip
    a = (dx * dx + dz * dz - slope * dy * dy).clamp_min(1e-9)
    b = px * dx + pz * dz + slope * below * dy
    root = b * b - a * (px * px + pz * pz - slope * below * below)
    cone = (-b - root.clamp_min(0).sqrt()) / a
    at = EYE + cone * dy
    cone = torch.where((root > 0) & (cone > 0.05) & (at > 0) & (at < height), cone, FAR)
    cone_normal = torch.stack([px + cone * dx, slope * (height - at), pz + cone * dz], -1)
    cone_normal = cone_normal / cone_normal.norm(dim=-1, keepdim=True).clamp_min(1e-6)

    is_ball, is_box, is_cone = ((kind == which).unsqueeze(-1) for which in (0, 1, 3))
    round_or_flat = torch.where(is_cone, cone_normal, torch.where(is_box, box_normal, pillar_normal))
    normal = torch.where(is_ball, ball_normal, round_or_flat)
    upright = torch.where(kind == 1, box, torch.where(kind == 2, pillar, cone))
    distance = torch.where(kind == 0, ball, upright)
    return torch.where(radius > 0, distance, FAR), normal
