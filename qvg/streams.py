"""Two streams of a GPU that work side by side, joined at both ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache

import torch

Lane = torch.cuda.Stream | None  # None: no GPU


@contextmanager
def two_lanes(device: torch.device) -> Iterator[tuple[Lane, Lane]]:
    """The current stream and another that begins here and is waited for at the end.

    What is allocated in the other lane may be let go outside: it is given out again only in that lane, after
    it has waited for all that came before.
    """
    if device.type != "cuda":
        yield None, None
        return
    here, beside = torch.cuda.current_stream(device), _side_stream(device)
    beside.wait_stream(here)
    try:
        yield here, beside
    finally:
        here.wait_stream(beside)


def on(lane: Lane) -> AbstractContextManager[object]:
    """What is launched inside goes to `lane`."""
    return nullcontext() if lane is None else torch.cuda.stream(lane)


@lru_cache(maxsize=16)
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
