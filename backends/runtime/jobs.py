"""What the page asks of a worker, and the run it watches. Nothing here loads torch or talks to a process."""

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
_REPLACEABLE = (Queued, Loading, Progress)  # of which only the newest is worth reading


@dataclass(frozen=True, slots=True)
class Side:
    """One way to keep a video's history. `blocks` is where it must end; None: with the request."""

    codec: CodecConfig
    policy: CachePolicy
    blocks: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """What to make and by which generator: once for every side, block by block in turns.

    A job with a `video` name may be gone on with: what the generator knows of it is kept for a while. One
    that goes on has that name, a request whose beginning is what was made, and the number of the
    `first_block` to make; what is no longer known is made again, unseen.
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
    """A submitted job, watched by one reader.

    A reader that leaves calls `stop()`, in the `finally` of its handler. One that only stops reading is taken
    to have left when a gibibyte of frames waits for it: its run is stopped, and no memory or device is lost.
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
        self.place = 0  # in the queue, kept by the worker; 1 is next, 0 is running or over
        self._ended = False

    @property
    def ended(self) -> bool:
        """Whether its last event has been sent, read or not."""
        return self._ended

    def stop(self) -> None:
        """Ends the run before its next denoising step, or at once while it waits."""
        self._stop(self)

    def move(self, place: int) -> None:
        """Changes its place in the queue, from 1; what is not waiting, or that far back, stays or is last."""
        self._move(self, place)

    def steer(self, keys: tuple[str, ...]) -> None:
        """Holds `keys` down from the next block on; none stand still. The request's path is left for good.

        Raises ValueError for a key that is none of `backends.camera.KEYS`.
        """
        for key in keys:
            if key not in KEYS:
                raise ValueError(f"unknown camera key {key!r}: use one of {', '.join(KEYS)}")
        self._steer(self, keys)

    def events(self, timeout: float) -> Iterator[Event | None]:
        """What happens, up to and including Done or Failed; None whenever `timeout` seconds bring nothing."""
        while True:
            with self._changed:
                if not self._unread and self._ended:
                    return
                event = self._next(timeout)
            yield event
            if isinstance(event, (Done, Failed)):
                return

    def put(self, event: Event) -> None:
        """For the worker: adds an event. After the last one nothing is added."""
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
