"""Conversion of wide-gamut and HDR colors for an ordinary screen: BT.709 primaries, gamma 2.2.

PQ and HLG are those of ITU-R BT.2100, with white at the 203 cd/m² of BT.2408; brighter light is compressed.
Phones record HLG, and P3 or BT.2020 primaries, by default.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

# Codes of H.273.
PQ, HLG = 16, 18
_BT2020, _P3 = 9, 12
_TO_BT709 = {
    _BT2020: np.array(
        [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]], np.float32
    ),
    _P3: np.array([[1.2249, -0.2247, 0.0], [-0.0420, 1.0419, 0.0], [-0.0197, -0.0786, 1.0979]], np.float32),
}
_WHITE = 203.0  # cd/m²
_KNEE = 0.6  # of white: darker values are unchanged
_STEPS = 4096


def is_needed(primaries: int, transfer: int) -> bool:
    """Returns whether colors with these tags look wrong when they are taken for BT.709."""
    return transfer in (PQ, HLG) or primaries in _TO_BT709


def to_bt709(pixels: np.ndarray, primaries: int, transfer: int) -> np.ndarray:
    """Returns uint8 [H, W, 3] for uint16 RGB [H, W, 3] in full range, of colors for which `is_needed`."""
    light = _light(transfer)[pixels]  # 1 is white
    if transfer == HLG:
        # The system gamma of a display of 1,000 cd/m².
        luminance = light @ np.array([0.2627, 0.6780, 0.0593], np.float32)
        light *= (1000 / _WHITE) * np.maximum(luminance, 1e-6)[..., None] ** 0.2
    if primaries in _TO_BT709:
        light = np.maximum(light @ _TO_BT709[primaries].T, 0)
    if transfer in (PQ, HLG):
        peak = light.max(-1, keepdims=True)
        over = np.maximum(peak - _KNEE, 0)
        # Leaves the knee with the same slope and never reaches 1.
        shown = np.minimum(peak, _KNEE) + (1 - _KNEE) * (1 - np.exp(-over / (1 - _KNEE)))
        light *= shown / np.maximum(peak, 1e-6)
    return _signal()[np.rint(np.clip(light, 0, 1) * _STEPS).astype(np.int32)]


@lru_cache(maxsize=4)
def _light(transfer: int) -> np.ndarray:
    """Returns linear light for each of 65,536 signal values: of the scene for HLG, else of the display."""
    signal = np.linspace(0, 1, 1 << 16)
    if transfer == PQ:
        root = signal ** (1 / 78.84375)
        light = (np.maximum(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125)
        light *= 10_000 / _WHITE
    elif transfer == HLG:
        a, b, c = 0.17883277, 0.28466892, 0.55991073
        light = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - c) / a) + b) / 12)
    else:
        light = signal**2.2
    return light.astype(np.float32)


@lru_cache(maxsize=1)
def _signal() -> np.ndarray:
    return np.rint(255 * np.linspace(0, 1, _STEPS + 1) ** (1 / 2.2)).astype(np.uint8)
