"""What the page asks of a worker, and the run it watches. Nothing here loads torch or talks to a process."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from backends.base import Done, Event, Failed, Loading, Progress, Queued, Request, Update
from qvg.config import CodecConfig
from qvg.policy import CachePolicy

UNREAD_BYTES = 1 << 30
_REPLACEABLE = (Queued, Loading, Progress)  # of which only the newest is worth reading


@dataclass(frozen=True, slots=True)
class Job:
    """One video to make: by which generator, what, and how its history is kept."""

    backend_id: str
    request: Request
    codec: CodecConfig
    policy: CachePolicy


class Run:
    """A submitted job, watched by one reader.

    A reader that leaves calls `stop()`, in the `finally` of its handler. One that only stops reading is taken
    to have left when a gibibyte of frames waits for it: its run is stopped, and no memory or device is lost.
    """

    def __init__(self, job: Job, stop: Callable[[Run], None]) -> None:
        self.id = secrets.token_urlsafe(16)
        self.job = job
        self._stop = stop
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
