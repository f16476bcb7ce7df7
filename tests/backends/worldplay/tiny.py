"""The tiny model that was recorded, and the paths it was recorded on."""

from __future__ import annotations

import random
from collections.abc import Iterable

from backends.worldplay import poses
from backends.worldplay.model import ModelConfig

# Four layers: with two, keeping keys and values for good looks the same as encoding them anew.
CONFIG = ModelConfig(
    layers=4, heads=2, head_dim=24, channels=4, text_width=16, ffn_width=64, frequencies=32, patch=2
)
ROWS, COLUMNS = 4, 6
CHUNK = 4
TEXT_TOKENS = 5

# The last two turn away and come back; path 6 is long enough for nine choices of memory.
PATHS = (
    "w-3",
    "",
    "d-2, a-3 , s-1",
    "up-4,down-5, right-3, left-2",
    "w-8, s-8, d-8, a-8, up-8, down-8",
    "right-6, w-4, left-9, up-3, d-2",
    "right-10, w-6, left-14, up-3, w-6, right-12, s-4",
)


def compound_path(seed: int, latents: int = 24) -> list[tuple[str, ...]]:
    """Several keys held at once, the same for a while."""
    chance = random.Random(seed)
    path: list[tuple[str, ...]] = []
    while len(path) < latents:
        pairs = (("w", "s"), ("d", "a"), ("right", "left"), ("up", "down"))
        keys = tuple(chance.choice(pair) for pair in pairs if chance.random() < 0.6)
        path += [keys] * chance.randint(1, 3)
    return path[:latents]


def walk(path: Iterable[tuple[str, ...]]) -> list[poses.Pose]:
    """The start and the camera after each latent frame of the path."""
    cameras = [poses.start()]
    for keys in path:
        cameras.append(poses.advance(cameras[-1], keys))
    return cameras
