"""Jobs, which the page submits to a worker, and runs, which it watches. No torch and no processes here."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from backends.base import Request
from backends.camera import KEYS
from backends.events import Done, Event, Failed, Loading, Progress, Queued, Update
from qvg.config import CodecConfig
from qvg.policy import CachePolicy

UNREAD_BYTES = 1 << 30
_REPLACEABLE = (Queued, Loading, Progress)  # only the newest of these matters to a reader


@dataclass(frozen=True, slots=True)
class Side:
    """One of a job's videos. All sides have the same request, and differ in how the KV cache is kept.

    `name` is the preset's, for the user. `ends_after` is the number of blocks that its memory budget allows,
    None for all. `drops_from` is the first block (from 0) that misses history, None if none does.
    """

    name: str
    codec: CodecConfig
    policy: CachePolicy
    ends_after: int | None = None
    drops_from: int | None = None

    @property
    def cache(self) -> tuple[CodecConfig, CachePolicy]:
        """Returns the settings of its KV cache: a side with equal settings can continue its video."""
        return self.codec, self.policy

    def blocks(self, requested: int) -> int:
        """Returns how many of `requested` blocks the side generates."""
        return requested if self.ends_after is None else min(self.ends_after, requested)


@dataclass(frozen=True, slots=True)
class Job:
    """A request, a model, and the sides to generate, one block of each in turn.

    Set `video` to make a job resumable: the worker keeps its state for a while. A resumed job has the same
    `video`, a request that begins with what exists, and the number of its `first_block`; dropped state is
    regenerated without emitting frames.
    """

    backend_id: str
    request: Request
    sides: tuple[Side, ...]
    video: str = ""
    first_block: int = 0

    def __post_init__(self) -> None:
        if not self.sides:
            raise ValueError("a job has at least one side: say how the history is kept")


class Run:
    """A submitted job, and its events for one reader.

    A reader that leaves must call `stop()` in a `finally`. A reader that only stops reading counts as gone
    when 1 GiB of frames is unread: the run is then stopped, to release memory and device.
    """

    def __init__(
        self,
        job: Job,
        stop: Callable[[Run], None],
        steer: Callable[[Run, tuple[str, ...]], None] = lambda run, keys: None,
        move: Callable[[Run, int], None] = lambda run, place: None,
    ) -> None:
        self.id = secrets.token_urlsafe(16)
        self.job = job
        self._stop = stop
        self._steer = steer
        self._move = move
        self._unread: deque[Event] = deque()
        self._unread_bytes = 0
        self._changed = threading.Condition()
        self.place = 0  # in the queue, set by the worker; 1 is next, 0 is running or ended
        self._ended = False

    @property
    def ended(self) -> bool:
        """Returns whether the last event has been put, read or not."""
        return self._ended

    def stop(self) -> None:
        """Ends the run before its next denoising step, or at once if it is queued."""
        self._stop(self)

    def move(self, place: int) -> None:
        """Moves a queued run to `place`, counted from 1, or to the end if `place` is beyond it.

        The order of the other runs stays.
        """
        self._move(self, place)

    def steer(self, keys: tuple[str, ...]) -> None:
        """Steers with `keys` from the next block on, not by the request's path; without keys it stands still.

        Raises ValueError for a key that is not in `backends.camera.KEYS`.
        """
        for key in keys:
            if key not in KEYS:
                raise ValueError(f"unknown camera key {key!r}: use one of {', '.join(KEYS)}")
        self._steer(self, keys)

    def events(self, timeout: float) -> Iterator[Event | None]:
        """Yields events up to and including Done or Failed, and None after `timeout` seconds without one."""
        while True:
            with self._changed:
                if not self._unread and self._ended:
                    return
                event = self._next(timeout)
            yield event
            if isinstance(event, (Done, Failed)):
                return

    def put(self, event: Event) -> None:
        """Adds an event; called by the worker. Events after Done or Failed are ignored."""
        with self._changed:
            if self._ended:
                return
            if self._unread and isinstance(event, _REPLACEABLE) and type(event) is type(self._unread[-1]):
                self._unread.pop()
            self._unread.append(event)
            self._unread_bytes += _frame_bytes(event)
            abandoned = self._unread_bytes > UNREAD_BYTES
            self._ended = isinstance(event, (Done, Failed))
            self._changed.notify_all()
        if abandoned:
            self.stop()

    def _next(self, timeout: float) -> Event | None:
        deadline = time.monotonic() + timeout
        while not self._unread:
            if not self._changed.wait(deadline - time.monotonic()):
                return None
        event = self._unread.popleft()
        self._unread_bytes -= _frame_bytes(event)
        return event


def _frame_bytes(event: Event) -> int:
    return event.segment.frames.nbytes if isinstance(event, Update) else 0
