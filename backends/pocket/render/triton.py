"""Ray-caster as one Triton kernel: 1,500 pictures in a few milliseconds, the rate that training needs."""

from __future__ import annotations

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from backends.pocket.scene import (
    EYE,
    FOG,
    HARMONICS,
    HORIZONTAL_FOV,
    LOOK_VALUES,
    OBJECTS,
    RIPPLE_ACROSS,
    RIPPLE_ALONG,
    RIPPLES,
    SAMPLES,
    TILE,
    TILES,
    Scenes,
    look_table,
)
from qvg.ops.triton import launch, tiles

BLOCK = 256  # pixels per program


@triton.jit
def _kernel(
    p_look, p_objects, p_hills, p_ground, p_poses, p_out,
    height, width, focal, tile, fog, eye,
    OBJECTS: tl.constexpr, HARMONICS: tl.constexpr, LOOK_VALUES: tl.constexpr,
    RIPPLES: tl.constexpr, TILES: tl.constexpr,
    ACROSS: tl.constexpr, ALONG: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Renders a block of pixels of one picture. Grid (pictures, pixel blocks).

    p_look fp32 [B, LOOK_VALUES], rows of `look_table`; p_out fp32 [B, 3, height, width].
    """
    picture = tl.program_id(0)
    pixel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = pixel < height * width
    row = (pixel // width).to(tl.float32)
    column = (pixel % width).to(tl.float32)

    b_look = p_look + picture * LOOK_VALUES
    top_r, top_g, top_b = tl.load(b_look), tl.load(b_look + 1), tl.load(b_look + 2)
    hor_r, hor_g, hor_b = tl.load(b_look + 3), tl.load(b_look + 4), tl.load(b_look + 5)
    lit_r, lit_g, lit_b = tl.load(b_look + 6), tl.load(b_look + 7), tl.load(b_look + 8)
    drk_r, drk_g, drk_b = tl.load(b_look + 9), tl.load(b_look + 10), tl.load(b_look + 11)
    hil_r, hil_g, hil_b = tl.load(b_look + 12), tl.load(b_look + 13), tl.load(b_look + 14)
    sun_x, sun_y, sun_z = tl.load(b_look + 15), tl.load(b_look + 16), tl.load(b_look + 17)
    strength, ambient, pattern = tl.load(b_look + 18), tl.load(b_look + 19), tl.load(b_look + 20)
    b_pose = p_poses + picture * 4
    origin_x, origin_z = tl.load(b_pose), tl.load(b_pose + 1)
    yaw, pitch = tl.load(b_pose + 2), tl.load(b_pose + 3)
    cos_yaw, sin_yaw, cos_pitch, sin_pitch = tl.cos(yaw), tl.sin(yaw), tl.cos(pitch), tl.sin(pitch)
    ground_x, ground_z = tl.load(p_ground + picture * 3), tl.load(p_ground + picture * 3 + 1)
    turn = tl.load(p_ground + picture * 3 + 2)
    cos_turn, sin_turn = tl.cos(turn), tl.sin(turn)

    out_r = tl.zeros([BLOCK], tl.float32)
    out_g = tl.zeros([BLOCK], tl.float32)
    out_b = tl.zeros([BLOCK], tl.float32)
    for sample in range(4):
        u = ((column + 0.25 + 0.5 * (sample % 2)) / width * 2 - 1) * focal
        v = (1 - (row + 0.25 + 0.5 * (sample // 2)) / height * 2) * focal * height / width
        up = v * cos_pitch + sin_pitch
        ahead = cos_pitch - v * sin_pitch
        right = u * cos_yaw + ahead * sin_yaw
        forward = ahead * cos_yaw - u * sin_yaw
        length = tl.sqrt(right * right + up * up + forward * forward)
        dx, dy, dz = right / length, up / length, forward / length

        flat = tl.maximum(tl.sqrt(dx * dx + dz * dz), 1e-6)
        rise = dy / flat
        blend = tl.sqrt(tl.minimum(tl.maximum(rise, 0.0), 1.0))
        towards = tl.maximum(dx * sun_x + dy * sun_y + dz * sun_z, 1e-9)
        log_towards = tl.log(towards)
        glow = strength * (0.30 * tl.exp(24 * log_towards) + 0.9 * tl.exp(900 * log_towards))
        sky_r = hor_r + (top_r - hor_r) * blend + glow
        sky_g = hor_g + (top_g - hor_g) * blend + glow
        sky_b = hor_b + (top_b - hor_b) * blend + glow
        sine, cosine = dx / flat, dz / flat
        real = tl.zeros([BLOCK], tl.float32) + 1.0
        imaginary = tl.zeros([BLOCK], tl.float32)
        skyline = tl.zeros([BLOCK], tl.float32) + 0.035
        for k in range(HARMONICS):
            turned = real * cosine - imaginary * sine
            imaginary = real * sine + imaginary * cosine
            real = turned
            b_hill = p_hills + (picture * HARMONICS + k) * 2
            skyline += tl.load(b_hill) * real + tl.load(b_hill + 1) * imaginary
        hilly = rise < tl.maximum(skyline, 0.004)
        sky_r = tl.where(hilly, hil_r + (hor_r - hil_r) * 0.25, sky_r)
        sky_g = tl.where(hilly, hil_g + (hor_g - hil_g) * 0.25, sky_g)
        sky_b = tl.where(hilly, hil_b + (hor_b - hil_b) * 0.25, sky_b)

        to_ground = tl.where(dy < -1e-4, -eye / tl.minimum(dy, -1e-4), 1.0e6)
        reach = tl.minimum(to_ground, 300.0)
        x, z = origin_x + reach * dx, origin_z + reach * dz
        gx = (x * cos_turn + z * sin_turn + ground_x) * (3.14159265358979 / tile)
        gz = (z * cos_turn - x * sin_turn + ground_z) * (3.14159265358979 / tile)
        wave = tl.sin(gx) * tl.sin(gz)
        if pattern == RIPPLES:
            wave = 0.6 * tl.sin(ACROSS * gx + 0.9 * tl.sin(ALONG * gz))
        elif pattern == TILES:
            wave = tl.minimum(tl.abs(tl.sin(gx)), tl.abs(tl.sin(gz))) * 2 - 0.22
        footprint = reach * (2 * focal / 224) / tl.maximum(-dy, 1e-3)
        soft = 1.6 * footprint / tile
        mix = 0.5 + 0.5 / (1 + soft * soft) * wave / tl.sqrt(wave * wave + 0.01)
        shade = tl.zeros([BLOCK], tl.float32) + 1.0
        nearest = tl.zeros([BLOCK], tl.float32) + 1.0e6
        paint_r = tl.zeros([BLOCK], tl.float32)
        paint_g = tl.zeros([BLOCK], tl.float32)
        paint_b = tl.zeros([BLOCK], tl.float32)
        for index in range(OBJECTS):
            b_object = p_objects + (picture * OBJECTS + index) * 9
            kind = tl.load(b_object)
            ox, oz = tl.load(b_object + 1), tl.load(b_object + 2)
            radius, tall = tl.load(b_object + 3), tl.load(b_object + 4)
            spin = tl.load(b_object + 5)
            away_x, away_z = x - ox + 0.15 * sun_x * tall, z - oz + 0.15 * sun_z * tall
            spread = tl.maximum(radius * 1.5, 1e-3)
            dark = tl.where(radius > 0, 0.5, 0.0)
            shade *= 1 - dark * tl.exp(-(away_x * away_x + away_z * away_z) / (spread * spread))
            px, pz = origin_x - ox, origin_z - oz
            safe = tl.maximum(radius, 1e-3)
            distance = tl.zeros([BLOCK], tl.float32) + 1.0e6
            nx = tl.zeros([BLOCK], tl.float32)
            ny = tl.zeros([BLOCK], tl.float32)
            nz = tl.zeros([BLOCK], tl.float32)
            if kind == 0:
                py = eye - radius
                b = px * dx + py * dy + pz * dz
                root = b * b - (px * px + py * py + pz * pz - radius * radius)
                hit = -b - tl.sqrt(tl.maximum(root, 0.0))
                distance = tl.where((root > 0) & (hit > 0.05), hit, 1.0e6)
                nx, ny, nz = (px + hit * dx) / safe, (py + hit * dy) / safe, (pz + hit * dz) / safe
            elif kind == 1:
                cos, sin = tl.cos(spin), tl.sin(spin)
                lx, lz = px * cos - pz * sin, px * sin + pz * cos
                ex, ez = dx * cos - dz * sin, dx * sin + dz * cos
                ix = 1 / tl.where(tl.abs(ex) < 1e-6, 1e-6, ex)
                iy = 1 / tl.where(tl.abs(dy) < 1e-6, 1e-6, dy)
                iz = 1 / tl.where(tl.abs(ez) < 1e-6, 1e-6, ez)
                x0, x1 = (-radius - lx) * ix, (radius - lx) * ix
                y0, y1 = -eye * iy, (tall - eye) * iy
                z0, z1 = (-radius - lz) * iz, (radius - lz) * iz
                near_x, near_y, near_z = tl.minimum(x0, x1), tl.minimum(y0, y1), tl.minimum(z0, z1)
                enter = tl.maximum(tl.maximum(near_x, near_y), near_z)
                leave = tl.minimum(tl.minimum(tl.maximum(x0, x1), tl.maximum(y0, y1)), tl.maximum(z0, z1))
                distance = tl.where((enter < leave) & (enter > 0.05), enter, 1.0e6)
                side_x = (near_x >= near_y) & (near_x >= near_z)
                side_z = near_z > tl.maximum(near_x, near_y)
                fx = tl.where(side_x, tl.where(ex > 0, -1.0, 1.0), 0.0)
                fz = tl.where(side_z, tl.where(ez > 0, -1.0, 1.0), 0.0)
                ny = tl.where(side_x | side_z, 0.0, tl.where(dy > 0, -1.0, 1.0))
                nx, nz = fx * cos + fz * sin, fz * cos - fx * sin
            elif kind == 2:
                a = tl.maximum(dx * dx + dz * dz, 1e-9)
                b = px * dx + pz * dz
                root = b * b - a * (px * px + pz * pz - radius * radius)
                wall = (-b - tl.sqrt(tl.maximum(root, 0.0))) / a
                at = eye + wall * dy
                struck = (root > 0) & (wall > 0.05) & (at > 0) & (at < tall)
                nx, nz = (px + wall * dx) / safe, (pz + wall * dz) / safe
                wall = tl.where(struck, wall, 1.0e6)
                lid = (tall - eye) / tl.where(tl.abs(dy) < 1e-6, 1e-6, dy)
                lid_x, lid_z = px + lid * dx, pz + lid * dz
                lid = tl.where((lid > 0.05) & (lid_x * lid_x + lid_z * lid_z < radius * radius), lid, 1.0e6)
                on_lid = lid < wall
                distance = tl.minimum(wall, lid)
                nx, nz = tl.where(on_lid, 0.0, nx), tl.where(on_lid, 0.0, nz)
                ny = tl.where(on_lid, tl.where(dy > 0, -1.0, 1.0), 0.0)
            else:
                slope = radius / tl.maximum(tall, 1e-3)
                slope = slope * slope
                below = tall - eye
                a = tl.maximum(dx * dx + dz * dz - slope * dy * dy, 1e-9)
                b = px * dx + pz * dz + slope * below * dy
                root = b * b - a * (px * px + pz * pz - slope * below * below)
                hit = (-b - tl.sqrt(tl.maximum(root, 0.0))) / a
                at = eye + hit * dy
                struck = (root > 0) & (hit > 0.05) & (at > 0) & (at < tall)
                distance = tl.where(struck, hit, 1.0e6)
                nx, ny, nz = px + hit * dx, slope * (tall - at), pz + hit * dz
                long = tl.maximum(tl.sqrt(nx * nx + ny * ny + nz * nz), 1e-6)
                nx, ny, nz = nx / long, ny / long, nz / long
            closer = distance < tl.where(radius > 0, nearest, -1.0)
            facing = 0.5 + 0.5 * (nx * sun_x + ny * sun_y + nz * sun_z)
            light = ambient + strength * facing * tl.sqrt(tl.maximum(facing, 0.0)) + 0.08 * ny
            nearest = tl.where(closer, distance, nearest)
            paint_r = tl.where(closer, tl.load(b_object + 6) * light, paint_r)
            paint_g = tl.where(closer, tl.load(b_object + 7) * light, paint_g)
            paint_b = tl.where(closer, tl.load(b_object + 8) * light, paint_b)

        level = tl.minimum(tl.maximum(ambient + strength * sun_y, 0.55), 1.0) * shade
        on_ground = to_ground < nearest
        seen = tl.minimum(to_ground, nearest)
        haze = tl.exp(-(seen / fog) * (seen / fog))
        solid_r = tl.where(on_ground, (drk_r + (lit_r - drk_r) * mix) * level, paint_r)
        solid_g = tl.where(on_ground, (drk_g + (lit_g - drk_g) * mix) * level, paint_g)
        solid_b = tl.where(on_ground, (drk_b + (lit_b - drk_b) * mix) * level, paint_b)
        anything = seen < 1.0e6
        red = tl.where(anything, hor_r + (solid_r - hor_r) * haze, sky_r)
        green = tl.where(anything, hor_g + (solid_g - hor_g) * haze, sky_g)
        blue = tl.where(anything, hor_b + (solid_b - hor_b) * haze, sky_b)
        out_r += tl.minimum(tl.maximum(red, 0.0), 1.0)
        out_g += tl.minimum(tl.maximum(green, 0.0), 1.0)
        out_b += tl.minimum(tl.maximum(blue, 0.0), 1.0)

    b_out = p_out + picture.to(tl.int64) * 3 * height * width + pixel
    tl.store(b_out, out_r * 0.25, mask=inside)
    tl.store(b_out + height * width, out_g * 0.25, mask=inside)
    tl.store(b_out + 2 * height * width, out_b * 0.25, mask=inside)


def render(scenes: Scenes, poses: Tensor, height: int, width: int) -> Tensor:
    """Returns the same as `backends.pocket.render.reference.render`, on CUDA."""
    assert len(SAMPLES) == 4, "the kernel supersamples 2x2"
    pictures = len(scenes)
    out = torch.empty(pictures, 3, height, width, device=poses.device)
    look = look_table(poses.device)[scenes.look].contiguous()
    scene = (scenes.objects.contiguous(), scenes.hills.contiguous(), scenes.ground.contiguous())
    launch(
        _kernel,
        (pictures, tiles(height * width, BLOCK), 1),
        (look, *scene, poses.contiguous(), out),
        (),
        (
            height,
            width,
            math.tan(HORIZONTAL_FOV / 2),
            TILE,
            FOG,
            EYE,
            OBJECTS,
            HARMONICS,
            LOOK_VALUES,
            RIPPLES,
            TILES,
            RIPPLE_ACROSS,
            RIPPLE_ALONG,
            BLOCK,
        ),
        4,
    )
    return out
