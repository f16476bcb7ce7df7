"""The procedural world that Pocket World is trained on: scenes, camera trajectories, renderer constants.

Metres, radians; y is up, a camera looks along +z at yaw 0 and stands EYE above the ground. The world's origin
is the camera's start, so the first pose of every trajectory is zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from backends.camera import KEYS
from backends.pocket import vocabulary

EYE = 1.3
HORIZONTAL_FOV = math.radians(70.0)
STEP = 0.12  # metres per frame
TURN = math.radians(2.5)  # per frame
TILT = math.radians(1.5)  # per frame
MAX_PITCH = math.radians(21.0)
OBJECTS = 9
HARMONICS = 8
TILE = 1.25  # metres per checker square
FOG = 26.0  # metres
SAMPLES = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))  # of a picture, within a pixel
LOW_HILLS, NO_HILLS = 0.035, 0.004  # rise of the skyline: on average, and at least

# A look is a place at a time of day: `place * len(TIMES) + time`.
LOOKS = len(vocabulary.PLACES) * len(vocabulary.TIMES)
# By place: sky top, sky horizon, ground light, ground dark, hills, all by day.
_PLACE_COLOURS = (
    ((0.24, 0.50, 0.86), (0.78, 0.90, 0.98), (0.44, 0.66, 0.27), (0.34, 0.55, 0.22), (0.36, 0.55, 0.42)),
    ((0.33, 0.58, 0.88), (0.97, 0.91, 0.78), (0.88, 0.72, 0.44), (0.78, 0.60, 0.35), (0.78, 0.57, 0.38)),
    ((0.52, 0.68, 0.88), (0.92, 0.95, 0.99), (0.95, 0.97, 1.00), (0.82, 0.88, 0.95), (0.70, 0.78, 0.88)),
    ((0.40, 0.56, 0.76), (0.86, 0.89, 0.90), (0.63, 0.60, 0.57), (0.42, 0.40, 0.39), (0.48, 0.47, 0.50)),
)
# By time: sky top, sky horizon, their share of the sky, factors on the ground and the hills.
_TIME_COLOURS = (
    ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0), 0.0, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
    ((0.29, 0.22, 0.46), (0.99, 0.60, 0.36), 0.92, (0.98, 0.78, 0.86), (0.70, 0.45, 0.64)),
    ((0.03, 0.04, 0.12), (0.16, 0.20, 0.36), 0.96, (0.40, 0.44, 0.68), (0.22, 0.22, 0.42)),
)
# By time: azimuth and elevation of the sun or moon (degrees), its strength, the ambient light.
_TIME_LIGHT = ((50.0, 50.0, 0.76, 0.44), (18.0, 7.0, 0.75, 0.42), (-25.0, 24.0, 0.50, 0.36))
CHECKER, RIPPLES, TILES = 0, 1, 2
RIPPLE_ACROSS, RIPPLE_ALONG = 1.6, 0.7  # ripples, and bends of ripples, per checker square
_PATTERNS = (CHECKER, RIPPLES, CHECKER, TILES)  # of the ground, by place
LOOK_VALUES = 21
COLOURS = ((0.86, 0.13, 0.12), (0.95, 0.50, 0.08), (0.96, 0.84, 0.14), (0.17, 0.62, 0.19), (0.12, 0.76, 0.78),
           (0.13, 0.29, 0.85), (0.50, 0.17, 0.72), (0.96, 0.46, 0.72))  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Scenes:
    """A batch of worlds.

    look       int64 [B], place and time of day
    objects    fp32  [B, OBJECTS, 9]: kind, x, z, radius (half width), height, yaw, r, g, b;
               radius 0 is absent
    colour     int64 [B, OBJECTS], index into vocabulary.COLOURS
    hills      fp32  [B, HARMONICS, 2]: cosine and sine amplitude of the skyline
    ground     fp32  [B, 3]: the pattern's offset x, z and rotation
    """

    look: Tensor
    objects: Tensor
    colour: Tensor
    hills: Tensor
    ground: Tensor

    def __len__(self) -> int:
        return self.look.shape[0]

    def to(self, device: torch.device | str) -> Scenes:
        return Scenes(*(getattr(self, field.name).to(device) for field in fields(self)))

    def repeat(self, times: int) -> Scenes:
        """Returns each scene `times` times in a row."""
        return Scenes(*(getattr(self, field.name).repeat_interleave(times, dim=0) for field in fields(self)))


def sample_scenes(batch: int, generator: torch.Generator) -> Scenes:
    """Returns scenes of nine objects around the start, four of them in front of the camera."""
    device = generator.device

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=device)

    front = torch.arange(OBJECTS, device=device) < 4
    slot = torch.arange(OBJECTS, device=device).float()
    in_front = math.radians(76) * ((slot + rand(batch, OBJECTS)) / 4 - 0.5)
    around = math.radians(38) + math.radians(284) * (slot - 4 + rand(batch, OBJECTS)) / (OBJECTS - 4)
    angle = torch.where(front, in_front, around)
    distance = 2.9 + 7.1 * rand(batch, OBJECTS).square()
    kind = (rand(batch, OBJECTS) * len(vocabulary.KINDS)).floor()
    size = rand(batch, OBJECTS)
    tall = rand(batch, OBJECTS)
    radius, height = sizes(kind, size, tall)
    colour = (rand(batch, OBJECTS) * len(COLOURS)).long()
    rgb = torch.tensor(COLOURS, device=device)[colour] * (0.92 + 0.16 * rand(batch, OBJECTS, 1))
    present = rand(batch, OBJECTS) < 0.5 + 0.5 * rand(batch, 1)
    objects = torch.stack(
        [
            kind,
            distance * angle.sin(),
            distance * angle.cos(),
            radius * present,
            height,
            rand(batch, OBJECTS) * math.pi,
            *rgb.clamp(0, 1).unbind(-1),
        ],
        -1,
    )
    hills, ground = sample_backdrops(batch, generator)
    return Scenes((rand(batch) * LOOKS).long(), objects, colour, hills, ground)


def sample_backdrops(batch: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns `hills` and `ground` of `Scenes`."""
    device = generator.device
    k = torch.arange(1, HARMONICS + 1, device=device).float()
    hills = torch.randn(batch, HARMONICS, 2, generator=generator, device=device) * (0.026 / k.sqrt())[:, None]
    spread = torch.tensor([4.0, 4.0, math.pi / 2], device=device)
    return hills, torch.rand(batch, 3, generator=generator, device=device) * spread


def pattern(x: Tensor, z: Tensor, ground: Tensor) -> tuple[Tensor, Tensor]:
    """Returns phases of the ground's pattern at (x, z) [B, ...] in metres: pi is a tile."""
    shape = (-1, *[1] * (x.ndim - 1))
    shift_x, shift_z, turn = (part.view(shape) for part in ground.unbind(1))
    along = x * turn.cos() + z * turn.sin() + shift_x
    across = z * turn.cos() - x * turn.sin() + shift_z
    return along * (math.pi / TILE), across * (math.pi / TILE)


def sizes(kind: Tensor, size: Tensor, tall: Tensor) -> tuple[Tensor, Tensor]:
    """Returns (radius, height) in metres of objects of `kind`, all [...], for `size` and `tall` in 0..1."""
    radii = [0.40 + 0.45 * size, 0.40 + 0.40 * size, 0.22 + 0.16 * size, 0.45 + 0.40 * size]
    radius = torch.stack(radii, -1)
    height = torch.stack([2 * radius[..., 0], 0.6 + 0.9 * tall, 1.9 + 1.3 * tall, 1.1 + 1.2 * tall], -1)
    pick = kind.long().unsqueeze(-1)
    return radius.gather(-1, pick).squeeze(-1), height.gather(-1, pick).squeeze(-1)


def hide_obstacles(scenes: Scenes, poses: Tensor, margin: float = 0.7) -> Scenes:
    """Returns scenes without the objects that the camera of `poses` [B, T, 4] would walk into."""
    centre = scenes.objects[:, None, :, 1:3]  # [B, 1, O, 2]
    near = (poses[:, :, None, :2] - centre).norm(dim=-1).amin(dim=1) < scenes.objects[..., 3] + margin
    objects = scenes.objects.clone()
    objects[..., 3] = objects[..., 3].masked_fill(near, 0.0)
    return Scenes(scenes.look, objects, scenes.colour, scenes.hills, scenes.ground)


def velocities(keys: tuple[str, ...]) -> tuple[float, float, float, float]:
    """Returns (right, forward, yaw, pitch) per frame for pressed `keys`; diagonal walking is no faster."""
    right = float("d" in keys) - float("a" in keys)
    forward = float("w" in keys) - float("s" in keys)
    pace = STEP / max(math.hypot(right, forward), 1.0)
    yaw = float("right" in keys) - float("left" in keys)
    pitch = float("up" in keys) - float("down" in keys)
    return right * pace, forward * pace, yaw * TURN, pitch * TILT


def integrate(steps: Tensor) -> Tensor:
    """Returns poses (x, z, yaw, pitch) [..., T + 1, 4], from zero, after each of `steps` [..., T, 4].

    A step is a result of `velocities`.
    """
    yaw = steps[..., 2].cumsum(-1)
    heading = yaw - steps[..., 2]  # walk first, then turn
    x = (steps[..., 0] * heading.cos() + steps[..., 1] * heading.sin()).cumsum(-1)
    z = (steps[..., 1] * heading.cos() - steps[..., 0] * heading.sin()).cumsum(-1)
    pitch = _clamped_sum(steps[..., 3])
    poses = torch.stack([x, z, yaw, pitch], -1)
    return torch.cat([torch.zeros_like(poses[..., :1, :]), poses], dim=-2)


def _clamped_sum(pitch: Tensor) -> Tensor:
    """Returns a running sum clamped to +-MAX_PITCH at every step, without wind-up."""
    total = torch.zeros_like(pitch[..., 0])
    sums = []
    for step in pitch.unbind(-1):
        total = (total + step).clamp(-MAX_PITCH, MAX_PITCH)
        sums.append(total)
    return torch.stack(sums, -1)


# Frequencies of sets of keys in training trajectories; turning is frequent because it exercises memory.
_HABITS = (
    (("left",), 22), (("right",), 22), (("w",), 20), (("s",), 6), (("a",), 5), (("d",), 5),
    (("w", "left"), 6), (("w", "right"), 6), (("up",), 2), (("down",), 2), ((), 4),
)  # fmt: skip
assert all(key in KEYS for keys, _ in _HABITS for key in keys)


def sample_trajectories(batch: int, frames: int, generator: torch.Generator, retrace: float = 0.6) -> Tensor:
    """Returns poses [B, frames, 4] of keys pressed for 4 to 40 frames each.

    A share of `retrace` walks back and forth over itself.
    """
    device = generator.device
    table = torch.tensor([velocities(keys) for keys, _ in _HABITS], device=device)
    weight = torch.tensor([float(w) for _, w in _HABITS], device=device)
    changes = torch.rand(batch, frames - 1, generator=generator, device=device) < 1 / 14
    changes[:, 0] = True
    drawn = torch.multinomial(weight.expand(batch, -1), frames - 1, replacement=True, generator=generator)
    last_change = torch.where(changes, torch.arange(frames - 1, device=device), 0).cummax(dim=1).values
    poses = integrate(table[drawn.gather(1, last_change)])
    time = torch.arange(frames, device=device).expand(batch, -1)
    pivot = torch.randint(12, 81, (batch, 1), generator=generator, device=device)
    folded = pivot - (pivot - time % (2 * pivot)).abs()
    back = torch.rand(batch, 1, generator=generator, device=device) < retrace
    index = torch.where(back, folded, time)
    return poses.gather(1, index.unsqueeze(-1).expand(-1, -1, 4))


def pixel_rays(poses: Tensor, height: int, width: int, offset: tuple[float, float] = (0.5, 0.5)) -> Tensor:
    """Returns unit view directions [..., height, width, 3] through pixel + `offset` for `poses` [..., 4]."""
    half = math.tan(HORIZONTAL_FOV / 2)
    u = ((torch.arange(width, device=poses.device) + offset[0]) / width * 2 - 1) * half
    v = (1 - (torch.arange(height, device=poses.device) + offset[1]) / height * 2) * half * height / width
    yaw, pitch = poses[..., 2, None, None], poses[..., 3, None, None]
    u, v = u.expand(height, width), v[:, None].expand(height, width)
    up = v * pitch.cos() + pitch.sin()
    ahead = pitch.cos() - v * pitch.sin()
    right = u * yaw.cos() + ahead * yaw.sin()
    forward = ahead * yaw.cos() - u * yaw.sin()
    rays = torch.stack([right, up, forward], -1)
    return rays / rays.norm(dim=-1, keepdim=True)


def look_table(device: torch.device | str) -> Tensor:
    """Returns fp32 [LOOKS, LOOK_VALUES].

    Five colours (15), direction of the sun (3), its strength, the ambient light, the pattern of the ground.
    """
    rows = []
    for (top, horizon, light, dark, hill), pattern in zip(_PLACE_COLOURS, _PATTERNS, strict=True):
        for (dim_top, dim_horizon, share, on_ground, on_hills), (azimuth, elevation, sun, ambient) in zip(
            _TIME_COLOURS, _TIME_LIGHT, strict=True
        ):
            sky = [
                by_day + (by_time - by_day) * share
                for day, dim in ((top, dim_top), (horizon, dim_horizon))
                for by_day, by_time in zip(day, dim, strict=True)
            ]
            ground = [c * m for colour in (light, dark) for c, m in zip(colour, on_ground, strict=True)]
            hills = [c * m for c, m in zip(hill, on_hills, strict=True)]
            a, e = math.radians(azimuth), math.radians(elevation)
            direction = [math.sin(a) * math.cos(e), math.sin(e), math.cos(a) * math.cos(e)]
            rows.append([*sky, *ground, *hills, *direction, sun, ambient, float(pattern)])
    return torch.tensor(rows, device=device)


def advance(
    pose: tuple[float, float, float, float], keys: tuple[str, ...]
) -> tuple[float, float, float, float]:
    """Returns the pose one frame later, with `keys` pressed: one step of `integrate`."""
    x, z, yaw, pitch = pose
    right, forward, turn, tilt = velocities(keys)
    x += right * math.cos(yaw) + forward * math.sin(yaw)
    z += forward * math.cos(yaw) - right * math.sin(yaw)
    return x, z, yaw + turn, max(-MAX_PITCH, min(MAX_PITCH, pitch + tilt))
