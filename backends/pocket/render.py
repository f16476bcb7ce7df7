"""The ray-caster, in plain torch: the meaning of `render_triton`, and what runs where there is no GPU."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backends.pocket.world import (
    EYE,
    HORIZONTAL_FOV,
    LOW_HILLS,
    NO_HILLS,
    OBJECTS,
    RIPPLE_ACROSS,
    RIPPLE_ALONG,
    RIPPLES,
    TILE,
    TILES,
    Scenes,
    look_table,
    pattern,
    pixel_rays,
)
from qvg.ops.kernels import or_reference

FOG = 26.0  # metres
SAMPLES = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))  # within a pixel
FAR = 1.0e6


def render(scenes: Scenes, poses: Tensor, height: int, width: int) -> Tensor:
    """One picture a scene: fp32 [B, 3, height, width] in 0..1 for `poses` [B, 4]."""
    if scenes.look.is_cuda:
        from backends.pocket.render_triton import render as on_gpu

        return or_reference(
            lambda: on_gpu(scenes, poses, height, width), lambda: reference(scenes, poses, height, width)
        )
    return reference(scenes, poses, height, width)


def reference(scenes: Scenes, poses: Tensor, height: int, width: int) -> Tensor:
    """As `render`, on any device."""
    total = sum(_shade(scenes, poses, pixel_rays(poses, height, width, offset)) for offset in SAMPLES)
    return (total / len(SAMPLES)).movedim(-1, 1)


def _shade(scenes: Scenes, poses: Tensor, ray: Tensor) -> Tensor:
    look = look_table(ray.device)[scenes.look][:, None, None]  # [B, 1, 1, LOOK_VALUES]
    top, horizon, light, dark, hill = (look[..., 3 * i : 3 * i + 3] for i in range(5))
    sun, strength, ambient, relief = look[..., 15:18], look[..., 18], look[..., 19], look[..., 20]
    origin = torch.stack([poses[:, 0], torch.full_like(poses[:, 0], EYE), poses[:, 1]], -1)[:, None, None]
    dx, dy, dz = ray.unbind(-1)

    flat = (dx * dx + dz * dz).sqrt().clamp_min(1e-6)
    rise = dy / flat
    sky = horizon + (top - horizon) * rise.clamp(0, 1).sqrt().unsqueeze(-1)
    glow = (ray * sun).sum(-1).clamp_min(0)
    sky = sky + strength.unsqueeze(-1) * (0.30 * glow**24 + 0.9 * (glow**900)).unsqueeze(-1)
    skyline = _skyline(scenes.hills, dx / flat, dz / flat)
    sky = torch.where((rise < skyline).unsqueeze(-1), hill + (horizon - hill) * 0.25, sky)

    to_ground = torch.where(dy < -1e-4, -EYE / dy.clamp(max=-1e-4), FAR)
    x = origin[..., 0] + to_ground.clamp(max=300) * dx
    z = origin[..., 2] + to_ground.clamp(max=300) * dz
    gx, gz = pattern(x, z, scenes.ground)
    checker = gx.sin() * gz.sin()
    ripples = 0.6 * (RIPPLE_ACROSS * gx + 0.9 * (RIPPLE_ALONG * gz).sin()).sin()
    tiles = torch.minimum(gx.sin().abs(), gz.sin().abs()) * 2 - 0.22
    wave = torch.where(relief == RIPPLES, ripples, torch.where(relief == TILES, tiles, checker))
    footprint = to_ground.clamp(max=300) * (2 * math.tan(HORIZONTAL_FOV / 2) / 224) / (-dy).clamp_min(1e-3)
    contrast = 1 / (1 + (1.6 * footprint / TILE) ** 2)
    mix = 0.5 + 0.5 * contrast * wave / (wave * wave + 0.01).sqrt()
    ground = dark + (light - dark) * mix.unsqueeze(-1)
    shade = torch.ones_like(x)

    nearest, colour = torch.full_like(x, FAR), torch.zeros_like(ray)
    for index in range(OBJECTS):
        kind, ox, oz, radius, height, yaw, *rgb = scenes.objects[:, index, :, None, None].unbind(1)
        away = (x - ox + 0.15 * sun[..., 0] * height) ** 2 + (z - oz + 0.15 * sun[..., 2] * height) ** 2
        reach = (radius * 1.5).clamp_min(1e-3)
        shade = shade * (1 - torch.where(radius > 0, 0.5, 0.0) * torch.exp(-away / (reach * reach)))
        distance, normal = hit(kind, ox, oz, radius, height, yaw, origin, dx, dy, dz)
        facing = 0.5 + 0.5 * (normal * sun).sum(-1)
        lit = ambient + strength * facing * facing.clamp_min(0).sqrt() + 0.08 * normal[..., 1]
        paint = torch.stack(rgb, -1) * lit.unsqueeze(-1)
        closer = distance < nearest
        nearest = torch.where(closer, distance, nearest)
        colour = torch.where(closer.unsqueeze(-1), paint, colour)

    ground = ground * (ambient + strength * sun[..., 1]).clamp(0.55, 1.0).unsqueeze(-1) * shade.unsqueeze(-1)
    solid = torch.where((to_ground < nearest).unsqueeze(-1), ground, colour)
    seen = torch.minimum(to_ground, nearest)
    haze = torch.exp(-((seen / FOG) ** 2)).unsqueeze(-1)
    solid = horizon + (solid - horizon) * haze
    return torch.where((seen < FAR).unsqueeze(-1), solid, sky).clamp(0, 1)


def _skyline(hills: Tensor, sine: Tensor, cosine: Tensor) -> Tensor:
    """Rise of the hills over the horizon in the direction (sine, cosine) of the yaw."""
    real, imaginary = torch.ones_like(sine), torch.zeros_like(sine)
    height = torch.full_like(sine, LOW_HILLS)
    for k in range(hills.shape[1]):
        real, imaginary = real * cosine - imaginary * sine, real * sine + imaginary * cosine
        height = height + hills[:, k, 0, None, None] * real + hills[:, k, 1, None, None] * imaginary
    return height.clamp_min(NO_HILLS)


def hit(
    kind: Tensor, ox: Tensor, oz: Tensor, radius: Tensor, height: Tensor, yaw: Tensor,
    origin: Tensor, dx: Tensor, dy: Tensor, dz: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Distance along the ray (FAR where missed) and surface normal.

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
