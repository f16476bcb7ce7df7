"""How far arrays are from each other, for tests of codecs."""

from __future__ import annotations

import numpy as np


def relative_error(x: np.ndarray, reference: np.ndarray) -> float:
    """Returns ||x - reference|| / ||reference|| in float64. Neither may be all zero."""
    assert x.shape == reference.shape
    exact = reference.astype(np.float64)
    return float(np.linalg.norm(x - exact) / np.linalg.norm(exact))
