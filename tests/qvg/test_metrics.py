"""Metrics by hand. No torch."""

from __future__ import annotations

import math

import numpy as np
import pytest

from qvg.metrics import psnr, psnr_of_mse


def test_psnr_of_bytes_and_of_floats() -> None:
    dark = np.zeros((4, 4, 3), np.uint8)
    assert psnr(dark, dark + 255) == 0.0
    assert psnr(dark, dark) == math.inf
    assert psnr(dark + 1, dark) == pytest.approx(48.1308, abs=1e-4)
    assert psnr(np.full(9, 0.1, np.float32), np.zeros(9, np.float32)) == pytest.approx(20.0)


def test_psnr_refuses_a_mix() -> None:
    with pytest.raises(ValueError, match="uint8 and float32"):
        psnr(np.zeros(3, np.uint8), np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="shapes differ"):
        psnr(np.zeros(3, np.uint8), np.zeros(4, np.uint8))


def test_psnr_of_a_mean_squared_error() -> None:
    assert psnr_of_mse(0.01, 1) == pytest.approx(20.0)
    assert psnr_of_mse(255**2, 255) == 0.0
    assert psnr_of_mse(0.0, 255) == math.inf
