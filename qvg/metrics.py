"""How far one array is from another. NumPy, so that pictures can be compared without torch."""

from __future__ import annotations

import numpy as np


def relative_error(x: np.ndarray, reference: np.ndarray) -> float:
    """||x - reference|| / ||reference||, in float64; 0 where both are zero."""
    _check_shapes(x, reference)
    error = float(np.linalg.norm(x.astype(np.float64) - reference))
    norm = float(np.linalg.norm(reference.astype(np.float64)))
    return error / norm if norm else (0.0 if error == 0 else float("inf"))


def psnr(x: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB over all values; infinite where they are equal.

    The peak is 255 for uint8 and 1.0 for floating point.
    """
    _check_shapes(x, reference)
    if x.dtype != reference.dtype or not (x.dtype == np.uint8 or np.issubdtype(x.dtype, np.floating)):
        raise ValueError(
            f"psnr compares two uint8 or two floating arrays, not {x.dtype} and {reference.dtype}"
        )
    peak = 255.0 if x.dtype == np.uint8 else 1.0
    error = float(np.mean((x.astype(np.float64) - reference) ** 2))
    return float(10 * np.log10(peak**2 / error)) if error else float("inf")


def _check_shapes(x: np.ndarray, reference: np.ndarray) -> None:
    if x.shape != reference.shape:
        raise ValueError(f"shapes differ: {x.shape} and {reference.shape}")
