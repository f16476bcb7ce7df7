"""Camera poses and action labels as HY-WorldPlay was trained with.

Axes are OpenCV's: x right, y down, z forward; `c2w` maps camera coordinates to the world's, in FP64. A key
pressed for one latent frame turns by 3 degrees or walks 0.08 units. The action label of a frame is derived
from its motion, not from the keys (hyvideo/generate.py and hyvideo/generate_custom_trajectory.py of
HY-WorldPlay).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from backends.worldplay.spec import SPEC

STEP = SPEC.metres_per_latent
TURN = math.radians(SPEC.degrees_per_latent)
FOCAL = (969.6969696969696 / 1920, 969.6969696969696 / 1080)  # in widths and heights of the picture

_MOVED = 1e-4  # units; less counts as standing still
_TURNED = 5e-2  # degrees
_ALONG = 60.0  # degrees from an axis within which a motion counts as along it
# Which of four directions are taken: opposite ones never occur together.
_LABELS = {
    (0, 0, 0, 0): 0,
    (1, 0, 0, 0): 1,
    (0, 1, 0, 0): 2,
    (0, 0, 1, 0): 3,
    (0, 0, 0, 1): 4,
    (1, 0, 1, 0): 5,
    (1, 0, 0, 1): 6,
    (0, 1, 1, 0): 7,
    (0, 1, 0, 1): 8,
}


class Pose(NamedTuple):
    """A camera at one latent frame."""

    c2w: Tensor  # fp64 [4, 4]
    action: int = 0  # 9 * walking + turning, 0 to 80


@dataclass(frozen=True, eq=False, slots=True)
class Views:
    """The cameras of F latent frames, in the world's coordinates."""

    w2c: Tensor  # fp64 [F, 4, 4]
    focal: Tensor  # fp64 [F, 2], in widths and heights of the picture
    actions: Tensor  # int64 [F]

    @classmethod
    def of(cls, poses: Sequence[Pose]) -> Views:
        return cls(
            torch.linalg.inv(torch.stack([pose.c2w for pose in poses])),
            torch.tensor([FOCAL] * len(poses), dtype=torch.float64),
            torch.tensor([pose.action for pose in poses]),
        )

    def __len__(self) -> int:
        return len(self.actions)


def start() -> Pose:
    """Returns the first pose of every path."""
    return Pose(torch.eye(4, dtype=torch.float64))


def advance(pose: Pose, keys: tuple[str, ...]) -> Pose:
    """Returns the camera after one latent frame with `keys` pressed: it turns first, then walks ahead."""
    c2w = pose.c2w.clone()
    yaw = TURN * (("right" in keys) - ("left" in keys))
    pitch = TURN * (("up" in keys) - ("down" in keys))
    c2w[:3, :3] = c2w[:3, :3] @ _about_y(yaw) @ _about_x(pitch)
    ahead = STEP * (("w" in keys) - ("s" in keys))
    aside = STEP * (("d" in keys) - ("a" in keys))
    c2w[:3, 3] += c2w[:3, :3] @ torch.tensor([aside, 0.0, ahead], dtype=torch.float64)
    return Pose(c2w, action(pose.c2w, c2w))


def action(before: Tensor, after: Tensor) -> int:
    """Returns the label of moving from camera `before` to `after`, fp64 [4, 4] both."""
    relative = torch.linalg.inv(before) @ after
    return 9 * _label(_walked(relative[:3, 3])) + _label(_turned(relative[:3, :3]))


def _walked(motion: Tensor) -> tuple[bool, bool, bool, bool]:
    """Returns forward, back, right, left; a direction between two axes counts for both."""
    length = float(motion.norm())
    if length <= _MOVED:
        return (False, False, False, False)
    from_x, _, from_z = (
        math.degrees(math.acos(min(1.0, max(-1.0, float(part) / length)))) for part in motion
    )
    return (from_z < _ALONG, from_z > 180 - _ALONG, from_x < _ALONG, from_x > 180 - _ALONG)


def _turned(rotation: Tensor) -> tuple[bool, bool, bool, bool]:
    """Returns right, left, up, down."""
    # Euler angles about fixed x, y, z in this order.
    pitch = math.degrees(math.atan2(float(rotation[2, 1]), float(rotation[2, 2])))
    yaw = math.degrees(math.asin(min(1.0, max(-1.0, -float(rotation[2, 0])))))
    return (yaw > _TURNED, yaw < -_TURNED, pitch > _TURNED, pitch < -_TURNED)


def _label(taken: tuple[bool, bool, bool, bool]) -> int:
    return _LABELS[tuple(map(int, taken))]


def _about_x(angle: float) -> Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[1, 0, 0], [0, cos, -sin], [0, sin, cos]], dtype=torch.float64)


def _about_y(angle: float) -> Tensor:
    cos, sin = math.cos(angle), math.sin(angle)
    return torch.tensor([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]], dtype=torch.float64)
