"""Similarity of two sequences of frames: PSNR over a segment, and mean SSIM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qvg.metrics import psnr, psnr_of_mse, ssim


class Likeness(NamedTuple):
    """Similarity of one segment. `psnr` in dB, infinite where the two are equal; `ssim` is 1 there."""

    psnr: float
    ssim: float


def likeness(frames: np.ndarray, reference: np.ndarray) -> Likeness:
    """Returns the similarity of two segments, both uint8 [T, H, W, 3]."""
    every = [ssim(one, other) for one, other in zip(frames, reference, strict=True)]
    return Likeness(psnr(frames, reference), float(np.mean(every)))


def pooled(parts: Sequence[tuple[Likeness, int]]) -> Likeness | None:
    """Returns the similarity over several segments with their frame counts: PSNR of the mean squared error,
    mean SSIM; None without frames."""
    frames = sum(count for _, count in parts)
    if not frames:
        return None
    error = sum(count * 10 ** (-part.psnr / 10) for part, count in parts) / frames
    mean = sum(count * part.ssim for part, count in parts) / frames
    return Likeness(psnr_of_mse(error, 1), mean)
