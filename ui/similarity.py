"""How alike two runs of frames are: PSNR over a segment, and SSIM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from qvg.metrics import psnr

_SIGMA, _RADIUS = 1.5, 5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


class Likeness(NamedTuple):
    """Of one segment. `psnr` in dB, infinite where the two are equal; `ssim` is 1 there."""

    psnr: float
    ssim: float


def likeness(frames: np.ndarray, reference: np.ndarray) -> Likeness:
    """Both uint8 [T, H, W, 3]."""
    every = [ssim(one, other) for one, other in zip(frames, reference, strict=True)]
    return Likeness(psnr(frames, reference), float(np.mean(every)))


def pooled(parts: Sequence[tuple[Likeness, int]]) -> Likeness | None:
    """Of segments of so many frames taken together: PSNR of the mean squared error, mean SSIM."""
    frames = sum(count for _, count in parts)
    if not frames:
        return None
    error = sum(count * 10 ** (-part.psnr / 10) for part, count in parts) / frames
    mean = sum(count * part.ssim for part, count in parts) / frames
    return Likeness(float(-10 * np.log10(error)) if error else float("inf"), mean)


def ssim(frame: np.ndarray, reference: np.ndarray) -> float:
    """Structural similarity of two pictures, uint8 [H, W, 3], on BT.709 luma.

    Wang et al., IEEE Transactions on Image Processing 13(4), 2004: Gaussian window of 11 x 11, sigma 1.5,
    K1 = 0.01, K2 = 0.03, mean over the pixels whose window is inside.
    """
    if frame.shape != reference.shape or min(frame.shape[:2]) <= 2 * _RADIUS:
        raise ValueError(
            f"ssim compares two pictures of one size, 11 pixels a side or more, "
            f"not {frame.shape} and {reference.shape}"
        )
    x, y = frame @ _LUMA, reference @ _LUMA
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x, var_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    top = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    bottom = (mean_x**2 + mean_y**2 + _C1) * (var_x + var_y + _C2)
    return float(np.mean(top / bottom, dtype=np.float64))


def _blurred(x: np.ndarray) -> np.ndarray:
    """Gaussian mean around every pixel whose window is inside; separable."""
    offsets = np.arange(-_RADIUS, _RADIUS + 1)
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights = (weights / weights.sum()).astype(np.float32)
    height, width = x.shape
    rows = sum(weight * x[at : height - 2 * _RADIUS + at] for at, weight in enumerate(weights))
    assert isinstance(rows, np.ndarray)
    columns = sum(weight * rows[:, at : width - 2 * _RADIUS + at] for at, weight in enumerate(weights))
    assert isinstance(columns, np.ndarray)
    return columns
