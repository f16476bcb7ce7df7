"""Events of a run, from the worker to the page: waiting, loading, progress, blocks, and how it ended.

The page process imports this module, so nothing here loads torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from backends.base import Segment
from backends.camera import CameraMove
from qvg.stats import CacheStats


@dataclass(frozen=True, slots=True)
class Queued:
    """The run waits for the device. `place` 1 is next."""

    place: int


@dataclass(frozen=True, slots=True)
class Loading:
    text: str


@dataclass(frozen=True, slots=True)
class Progress:
    """Step `step` of `steps` of block `block` of `blocks` of side `side` begins (all counted from 0)."""

    block: int
    blocks: int
    step: int
    steps: int
    side: int = 0


@dataclass(frozen=True, slots=True)
class Update:
    """A finished block of one side, with the statistics of that side's cache."""

    segment: Segment
    stats: CacheStats
    block_ms: float  # wall time of this block, decoding included
    seconds: float  # since the run started on the device
    side: int = 0
    move: CameraMove | None = None  # as steered by the viewer; None if the request's path was followed
    memory_bytes: int = 0  # of the process (CPU) or the allocator (GPU), all sides together, after this block
    peak_bytes: int = 0  # the largest of these since the run started


@dataclass(frozen=True, slots=True)
class Done:
    """The run ended by itself, or by Stop (`stopped`).

    `blocks` and `frames` count those of the longest side. If the caches were released, `freed_bytes` is their
    size; if they are kept so that the video can be extended, `kept_bytes` is.
    """

    stopped: bool
    blocks: int
    frames: int
    seconds: float
    peak_bytes: int  # largest the process (CPU) or the allocator (GPU) got during the run
    notes: tuple[str, ...] = ()
    freed_bytes: int = 0
    kept_bytes: int = 0
    memory_bytes: int = 0  # of the process (CPU) or the allocator (GPU), after all that


@dataclass(frozen=True, slots=True)
class Failed:
    """The run ended by an error. `message` is for the user, `detail` for the log."""

    message: str
    detail: str = ""


Event = Queued | Loading | Progress | Update | Done | Failed
