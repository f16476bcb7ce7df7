"""Loading Mosaic, whose weights are random."""

from __future__ import annotations

from collections.abc import Callable

import torch

from backends.mosaic.rollout import MosaicBackend


def load(device: torch.device, on_status: Callable[[str], None]) -> MosaicBackend:
    """Returns the model on `device`."""
    on_status("Loading Mosaic")
    return MosaicBackend(device)


def load_random(device: torch.device, on_status: Callable[[str], None], tiny: bool = False) -> MosaicBackend:
    """Returns the same: there are no other weights."""
    return load(device, on_status)
