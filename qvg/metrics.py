"""Distances between arrays: PSNR, SSIM and relative error. NumPy only, so that torch is not needed."""

from __future__ import annotations

import math

import numpy as np

# Of SSIM: the Gaussian window, its two constants for 8 bits, and the weights of BT.709 luma.
_SIGMA, _RADIUS = 1.5, 5
_C1, _C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
_LUMA = np.array([0.2126, 0.7152, 0.0722], np.float32)


def psnr_of_mse(mse: float, peak: float) -> float:
    """Returns the peak signal-to-noise ratio in dB of a mean squared error; infinite for 0."""
    return 10 * math.log10(peak**2 / mse) if mse else math.inf


def psnr(x: np.ndarray, reference: np.ndarray) -> float:
    """Returns the peak signal-to-noise ratio in dB over all values; infinite where they are equal.

    The peak is 255 for uint8 and 1.0 for floating point. Raises ValueError for others and unequal shapes.
    """
    _check_shapes(x, reference)
    if x.dtype != reference.dtype or not (x.dtype == np.uint8 or np.issubdtype(x.dtype, np.floating)):
        raise ValueError(
            f"psnr compares two uint8 or two floating arrays, not {x.dtype} and {reference.dtype}"
        )
    peak = 255.0 if x.dtype == np.uint8 else 1.0
    return psnr_of_mse(float(np.mean((x.astype(np.float64) - reference) ** 2)), peak)


def ssim(frame: np.ndarray, reference: np.ndarray) -> float:
    """Returns the structural similarity of two pictures, uint8 [H, W, 3], on BT.709 luma.

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


def _check_shapes(x: np.ndarray, reference: np.ndarray) -> None:
    if x.shape != reference.shape:
        raise ValueError(f"shapes differ: {x.shape} and {reference.shape}")


def _blurred(x: np.ndarray) -> np.ndarray:
    """Returns the Gaussian mean around every pixel whose window is inside, one axis after the other."""
    offsets = np.arange(-_RADIUS, _RADIUS + 1)
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights = (weights / weights.sum()).astype(np.float32)
    height, width = x.shape
    rows = sum(weight * x[at : height - 2 * _RADIUS + at] for at, weight in enumerate(weights))
    assert isinstance(rows, np.ndarray)
    columns = sum(weight * rows[:, at : width - 2 * _RADIUS + at] for at, weight in enumerate(weights))
    assert isinstance(columns, np.ndarray)
    return columns
