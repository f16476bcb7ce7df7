"""Two CUDA streams that work side by side, joined at both ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import lru_cache

import torch

Stream = torch.cuda.Stream | None  # None without a GPU


@contextmanager
def two_streams(device: torch.device) -> Iterator[tuple[Stream, Stream]]:
    """Yields the current stream and another that begins here and is waited for at the end.

    Memory allocated in the other stream may be freed outside: the allocator gives it out again only in that
    stream, which by then has waited for all earlier work.
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


def on(stream: Stream) -> AbstractContextManager[object]:
    """Sends the kernels launched inside to `stream`; does nothing without one."""
    return nullcontext() if stream is None else torch.cuda.stream(stream)


@lru_cache(maxsize=16)
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
