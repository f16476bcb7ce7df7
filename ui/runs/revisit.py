"""Revisited places: PSNR of frames seen again from a pose against those first seen from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile
from math import cos, sin
from typing import NamedTuple

import numpy as np

from backends.base import BackendSpec
from backends.camera import CameraMove, Pose, trace
from qvg.metrics import psnr_of_mse

_PEAK = 255.0


def returns(moves: Sequence[CameraMove], spec: BackendSpec, blocks: int) -> dict[int, int]:
    """Returns, by video frame, the first frame seen from the same pose, for frames where the camera has come
    back.

    One frame for every latent frame. A camera that merely stands still does not return; nor does one that has
    looked up or down, because each generator limits the pitch in its own way.
    """
    latents = blocks * spec.latents_per_block
    level = list(takewhile(lambda move: not {"up", "down"} & {*move.keys}, moves))
    poses = [_key(pose) for pose in trace(level, spec.metres_per_latent, spec.degrees_per_latent)][:latents]
    if len(level) == len(moves):
        poses += poses[-1:] * (latents - len(poses))
    first: dict[tuple[float, ...], int] = {}
    left: set[tuple[float, ...]] = set()
    found: dict[int, int] = {}
    before: tuple[float, ...] | None = None
    for latent, pose in enumerate(poses):
        if before is not None and before != pose:
            left.add(before)
        before = pose
        if pose in left:
            found[video_frame(latent, spec)] = video_frame(first[pose], spec)
        first.setdefault(pose, latent)
    return found


def video_frame(latent: int, spec: BackendSpec) -> int:
    """Returns the last video frame that a latent frame decodes to: the one seen from its pose."""
    each = spec.frames_per_block // spec.latents_per_block
    missing = 0 if spec.first_block_frames is None else spec.frames_per_block - spec.first_block_frames
    return max(0, (latent + 1) * each - 1 - missing)


def _key(pose: Pose) -> tuple[float, ...]:
    heading = (cos(pose.heading), sin(pose.heading))  # periodic: a full turn returns
    # Sums of equal steps there and back differ in their last digits.
    return tuple(round(value, 4) for value in (pose.x, pose.y, *heading))


class Seen(NamedTuple):
    """Error of revisited frames: the sum of their mean squared errors against the first ones, and their
    number."""

    squares: float = 0.0
    frames: int = 0

    def plus(self, squares: float, frames: int) -> Seen:
        """Returns the sum of two errors."""
        return Seen(self.squares + squares, self.frames + frames)

    @property
    def psnr(self) -> float | None:
        """Returns the PSNR in dB of the mean squared error; None while no frame has returned."""
        if not self.frames:
            return None
        return psnr_of_mse(self.squares / self.frames, _PEAK)


class Revisit:
    """Comparison of one side's returning frames with those first seen from the same poses."""

    def __init__(self, returning: Mapping[int, int]) -> None:
        """Takes `returning` as `returns` returns it."""
        self._returning = returning
        self._awaited = set(returning.values())
        self._kept: dict[int, np.ndarray] = {}

    def take(self, frames: np.ndarray, start: int) -> Seen:
        """Compares the next frames, uint8 [T, H, W, 3], from video frame `start` on."""
        seen = Seen()
        for number, frame in enumerate(frames, start):
            earlier = self._kept.get(self._returning.get(number, -1))
            if earlier is not None:
                seen = seen.plus(float(np.mean((frame.astype(np.float32) - earlier) ** 2)), 1)
            if number in self._awaited:
                self._kept[number] = frame.copy()
        return seen
