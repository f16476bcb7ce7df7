"""Camera paths on the page: presets, and the constants and scale that the map needs."""

from __future__ import annotations

from typing import Any

from backends.base import BackendSpec
from backends.camera import KEYS, MAX_MOVE_TEXT, MAX_PATH_LATENTS, MAX_TEXT
from backends.plain_text import PLAIN

PRESETS = (
    ("Look around and back", "right-24, left-24"),
    ("Walk ahead", "w-48"),
    ("Orbit", "a+right-144"),
    ("There and back", "w-24, s-24"),
    ("Walk a curve", "w-12, w+right-36, w-12"),
)
FIRST = PRESETS[0][1]  # shown when the page opens: looks away and back

# Constants for camera_path.js: keys, limits, and typographic characters with their plain equivalents.
CONSTANTS = {
    "KEYS": KEYS,
    "MOST": MAX_PATH_LATENTS,
    "MOST_TEXT": MAX_TEXT,
    "MOST_MOVE_TEXT": MAX_MOVE_TEXT,
    "PLAIN": PLAIN,
}


def scale_of(spec: BackendSpec) -> dict[str, Any]:
    """Returns how far a key moves the camera in one latent frame of this model, in metres and degrees."""
    return {
        "model": spec.id,
        "metres": spec.metres_per_latent,
        "degrees": spec.degrees_per_latent,
        "latents_per_second": spec.fps * spec.latents_per_block / spec.frames_per_block,
    }
