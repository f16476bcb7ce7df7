"""Does a video still know what was there? Frames seen again from a pose, against those seen first from it."""

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
    """Video frame -> the first frame seen from the same pose, for frames where the camera has come back.

    One frame for every latent frame. Where the camera merely stands still nothing returns, nor after it has
    looked up or down: how far it may is the generator's own.
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
    """The last video frame a latent frame decodes to: the one seen from its pose."""
    each = spec.frames_per_block // spec.latents_per_block
    missing = 0 if spec.first_block_frames is None else spec.frames_per_block - spec.first_block_frames
    return max(0, (latent + 1) * each - 1 - missing)


def _key(pose: Pose) -> tuple[float, ...]:
    heading = (cos(pose.heading), sin(pose.heading))  # once round is back
    # Sums of equal steps there and back differ in their last digits.
    return tuple(round(value, 4) for value in (pose.x, pose.y, *heading))


class Seen(NamedTuple):
    """Of the frames seen again: their squared error against the first ones, summed, and how many they are."""

    squares: float = 0.0
    frames: int = 0

    def plus(self, squares: float, frames: int) -> Seen:
        return Seen(self.squares + squares, self.frames + frames)

    @property
    def psnr(self) -> float | None:
        """In dB, of the mean squared error; None while no frame has returned."""
        if not self.frames:
            return None
        return psnr_of_mse(self.squares / self.frames, _PEAK)


class Revisit:
    """Compares the returning frames of one side, as they come, with those it showed first."""

    def __init__(self, returning: Mapping[int, int]) -> None:
        """`returning` as from `returns`."""
        self._returning = returning
        self._awaited = set(returning.values())
        self._kept: dict[int, np.ndarray] = {}

    def take(self, frames: np.ndarray, start: int) -> Seen:
        """The next frames, uint8 [T, H, W, 3], from video frame `start` on."""
        seen = Seen()
        for number, frame in enumerate(frames, start):
            earlier = self._kept.get(self._returning.get(number, -1))
            if earlier is not None:
                seen = seen.plus(float(np.mean((frame.astype(np.float32) - earlier) ** 2)), 1)
            if number in self._awaited:
                self._kept[number] = frame.copy()
        return seen
