"""Ray-caster in plain torch: reference of the kernel in `triton.py`, and its replacement without a GPU."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from backends.pocket.geometry import FAR, hit
from backends.pocket.scene import (
    EYE,
    FOG,
    HORIZONTAL_FOV,
    LOW_HILLS,
    NO_HILLS,
    OBJECTS,
    RIPPLE_ACROSS,
    RIPPLE_ALONG,
    RIPPLES,
    SAMPLES,
    TILE,
    TILES,
    Scenes,
    look_table,
    pattern,
    pixel_rays,
)


def render(scenes: Scenes, poses: Tensor, height: int, width: int) -> Tensor:
    """Returns one picture per scene, fp32 [B, 3, height, width] in 0..1, for `poses` [B, 4]."""
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
    """Returns the rise of the hills over the horizon in the direction (sine, cosine) of the yaw."""
    real, imaginary = torch.ones_like(sine), torch.zeros_like(sine)
    height = torch.full_like(sine, LOW_HILLS)
    for k in range(hills.shape[1]):
        real, imaginary = real * cosine - imaginary * sine, real * sine + imaginary * cosine
        height = height + hills[:, k, 0, None, None] * real + hills[:, k, 1, None, None] * imaginary
    return height.clamp_min(NO_HILLS)
