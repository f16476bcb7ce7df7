"""Graphics cards that kernels are launched on: their shared memory decides the sizes of tiles."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import NamedTuple

import torch


class Card(NamedTuple):
    """A kind of card."""

    capability: tuple[int, int]
    shared_bytes: int  # of shared memory that a block of threads may use
    processors: int

    def tiles(self, head_dim: int) -> Tiles:
        """Returns the tiles of kernels for heads of `head_dim` channels."""
        return ROOMY if self.shared_bytes >= ROOMY_BYTES * max(128, head_dim) else TIGHT


class Tiles(NamedTuple):
    """Sizes of tiles, which differ between cards with much and with little shared memory.

    Results do not depend on them, except for the order in which `_sums` adds.
    """

    nearest: tuple[int, int, int] | None  # tokens, centroids and stages of `_nearest`; None: `_assign`
    summed: int  # centroids of a program of `_sums`
    summed_stages: int | None
    rotated: tuple[int, int]  # tokens and warps of `_hadamard`
    attended_stages: int  # of 8-bit attention


# All centroids of a head lie in shared memory at once: 898 bytes a channel for 256 of them, 114,952 at 128.
ROOMY_BYTES = 900
ROOMY = Tiles(None, 128, None, (64, 4), 3)
# For two programs side by side in 100 KiB, compute capability 8.6, 8.9 and 12.0: 49,280 bytes of `_nearest`,
# 40,960 of `_sums`, neither short of registers.
TIGHT = Tiles((128, 32, 3), 64, 2, (32, 8), 2)


# Shared memory a block may opt in to, by compute capability: CUDA C++ Programming Guide, technical
# specifications per compute capability. Used where torch does not say it; the others have what 7.5 has.
SHARED_BYTES = {
    (8, 0): 163 << 10,
    (8, 6): 99 << 10,
    (8, 7): 163 << 10,
    (8, 9): 99 << 10,
    (9, 0): 227 << 10,
    (10, 0): 227 << 10,
    (10, 3): 227 << 10,
    (11, 0): 227 << 10,
    (12, 0): 99 << 10,
    (12, 1): 99 << 10,
}
LEAST_SHARED_BYTES = 64 << 10
# The card that Triton's interpreter on a CPU stands for: one with little shared memory, as most users have.
INTERPRETED = Card((12, 0), 99 << 10, 8)

_assumed: ContextVar[Card] = ContextVar("assumed", default=INTERPRETED)


def card_of(device: torch.device) -> Card:
    """Returns the card of a CUDA `device`; for any other, the one that `assumed` set."""
    return _read(device) if device.type == "cuda" else _assumed.get()


@contextmanager
def assumed(card: Card) -> Iterator[None]:
    """Treats tensors that are on no card as if they were on `card`."""
    token = _assumed.set(card)
    try:
        yield
    finally:
        _assumed.reset(token)


def kind_of_card(capability: tuple[int, int], processors: int = 100) -> Card:
    """Returns a card of compute capability `capability`, from SHARED_BYTES."""
    return Card(capability, SHARED_BYTES.get(capability, LEAST_SHARED_BYTES), processors)


@lru_cache(maxsize=16)
def _read(device: torch.device) -> Card:
    properties = torch.cuda.get_device_properties(device)
    card = kind_of_card((properties.major, properties.minor), properties.multi_processor_count)
    # torch 2.5 and later report it.
    return card._replace(shared_bytes=getattr(properties, "shared_memory_per_block_optin", card.shared_bytes))
