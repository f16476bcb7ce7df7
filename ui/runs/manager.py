"""Manager of runs: submits them to the worker, tracks them to completion, persists them, restores queued ones
after a restart.

A run belongs to its visitor and not to a page: it continues when the page is closed, and is shown when the
visitor returns.
"""

from __future__ import annotations

import asyncio
import atexit
import base64
import contextvars
import hashlib
import hmac
import logging
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from pathlib import Path
from typing import Protocol, runtime_checkable

from backends.camera import CameraMove
from backends.events import Done, Event, Failed, Progress, Update
from backends.memory_plan import BudgetTooSmall
from backends.runtime.hardware import DeviceInfo
from backends.runtime.jobs import Job
from backends.validation import check
from ui import text
from ui.form.run_spec import RunSpec, as_moves, extend
from ui.form.values import FormError
from ui.runs import export, recovery
from ui.runs.folder import RunFolder
from ui.runs.history import Past
from ui.runs.presenter import RunPresenter, View
from ui.runs.retention import LIMITS, Limits, Retention
from ui.runs.run_index import Entry, RunIndex

HEARTBEAT_S = 1.0  # upper limit of the time between two checks whether anyone watches
ABANDONED_S = 60.0  # a shared page stops a run that nobody has watched for this long
RUNS_PER_VISITOR = 2  # of a shared page, running or queued
VISITORS_PER_ADDRESS = 3  # each with all its runs active: names are free to invent
RUNS_IN_ALL = 20  # of a shared page
REMEMBERED = 8  # ended runs whose blocks stay in memory, to undo or extend
_NAME = re.compile("(?=.*[!-~])[ -~]{1,64}")  # of a visitor; not blanks only
_log = logging.getLogger(__name__)


class RunState(IntEnum):
    """State of a run. It only advances; extending a video begins again at QUEUED.

    SAVING lasts from the run's last event until its videos and its run.json are written: a client that sees
    DONE finds the files, and one that looks earlier sees the run as active.
    """

    QUEUED = 1  # or its model is being loaded
    RUNNING = 2
    STOPPING = 3  # from the request to stop until the worker has stopped
    SAVING = 4
    DONE = 5

    @property
    def written(self) -> str:
        """Returns the state as run.json and answers to programs spell it."""
        return {RunState.QUEUED: "waiting", RunState.DONE: "done"}.get(self, "running")


class RunLike(Protocol):
    """A run as the worker returns it: the part of `backends.runtime.worker.Run` that the page uses."""

    @property
    def id(self) -> str: ...

    @property
    def place(self) -> int: ...

    def stop(self) -> None: ...

    def move(self, place: int) -> None: ...

    def steer(self, keys: tuple[str, ...]) -> None: ...

    def events(self, timeout: float) -> Iterator[Event | None]: ...


class WorkerLike(Protocol):
    """A worker: the part of `backends.runtime.worker.Worker` that the page uses; tests and Spaces have their
    own."""

    @property
    def info(self) -> DeviceInfo | None: ...

    def start(self) -> None: ...

    def submit(self, job: Job) -> RunLike: ...


@runtime_checkable
class TimedWorker(Protocol):
    """A worker that obtains its device anew for each run, for a limited time."""

    def seconds(self, backend_id: str, blocks: int) -> int:
        """Returns the seconds that `blocks` blocks need, loading included."""
        ...


@dataclass(slots=True, eq=False)
class Record:
    """A run, and its video while it can be extended."""

    id: str
    owner: str
    presenter: RunPresenter
    run: RunLike
    order: float  # in the queue, and in history
    asker: str = ""  # whose limit the run counts against: the owner, or a program's address
    address: str = ""  # of the client that started it; empty where that is not known
    state: RunState = RunState.QUEUED
    end_seen: bool = False  # whether a page has shown its end
    watched_at: float = field(default_factory=time.monotonic)  # monotonic; at first the start
    version: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)
    _listeners: set[Callable[[], None]] = field(default_factory=set)
    _advancing: threading.Lock = field(default_factory=threading.Lock)

    def advance(self, state: RunState) -> bool:
        """Sets the state unless the run has reached it already; returns whether it did.

        Needs no other lock: `changed` is locked while videos are encoded, and Stop must not wait for that.
        """
        with self._advancing:
            if state <= self.state:
                return False
            self.state = state
            return True

    def begin_again(self, run: RunLike) -> None:
        """Queues an ended run once more, as `run`."""
        with self._advancing:
            self.run, self.order = run, time.time()
            self.state, self.end_seen = RunState.QUEUED, False

    @property
    def run_spec(self) -> RunSpec:
        return self.presenter.run_spec

    @property
    def ended(self) -> bool:
        return self.state is RunState.DONE

    @property
    def stopping(self) -> bool:
        return self.state is RunState.STOPPING

    @property
    def can_take_back(self) -> bool:
        """Returns whether Undo can remove the last block."""
        return self.ended and self.presenter.blocks > 1

    @property
    def can_put_back(self) -> bool:
        """Returns whether Redo can restore a block."""
        return self.ended and self.presenter.blocks_taken_back > 0

    def next_view(self, seen: int, timeout: float) -> tuple[int, View]:
        """Returns the version and the view, once the version is not `seen`, or after `timeout` seconds."""
        with self.changed:
            self.changed.wait_for(lambda: self.version != seen, timeout)
            return self.version, self.presenter.view

    async def news(self, seen: int, timeout: float) -> None:
        """Returns once the version is not `seen`, or after `timeout` seconds. Takes no thread and no lock:
        `changed` is locked while a video is written."""
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(woken.set)

        # Registered before the version is read, so that no change is missed in between.
        self._listeners.add(wake)
        try:
            if self.version == seen:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(woken.wait(), timeout)
        finally:
            self._listeners.discard(wake)

    def notify(self) -> None:
        """Increments the version and wakes its waiters. Call it with `changed` locked."""
        self.version += 1
        self.changed.notify_all()
        for wake in tuple(self._listeners):
            wake()


class RunManager:
    """Manager of the runs of all visitors."""

    def __init__(
        self,
        worker: WorkerLike,
        outputs: Path,
        runs_per_visitor: int = RUNS_PER_VISITOR,
        limits: Limits = LIMITS,
    ) -> None:
        self.worker = worker
        self.outputs = outputs
        self._index = RunIndex(outputs)
        self.limits = limits
        self._retention = Retention(limits)
        self._tidying = threading.Lock()
        self.shared = False  # whether visitors do not know each other
        self.runs_per_visitor = runs_per_visitor
        self._arriving: list[tuple[str, str]] = []  # askers and addresses of runs being submitted
        # Returns whether the stream of one of some names (of a session, or a call) is open.
        self.is_read: Callable[..., bool] = lambda *_: True
        self._watching: list[tuple[str, tuple[str | None, ...]]] = []  # owners, and names of their streams
        self._watching_lock = threading.Lock()
        self._session_key = secrets.token_bytes(32)
        self._records: dict[str, Record] = {}
        self._lock = threading.RLock()
        self._opened = self._closed = False

    def visitor(self, name: object, session: str | None) -> str:
        """Returns the name of a visitor: the one the browser sends, or one that belongs to its session.

        A browser sends none before its first answer, nor where it may store nothing, as inside a frame of
        another site. Anything but 1 to 64 printable ASCII characters counts as none. Without a session
        either, each call is another visitor.
        """
        if isinstance(name, str) and _NAME.fullmatch(name):
            return name
        if not session:
            return secrets.token_urlsafe(16)
        # Keyed: a session's hash appears in addresses and logs, and this name is a secret of the browser.
        digest = hmac.digest(self._session_key, session.encode(errors="replace"), "sha256")
        return base64.urlsafe_b64encode(digest[:16]).decode().rstrip("=")

    def owner(self, name: object, session: str | None = None) -> str:
        """Returns the owner of a visitor's runs: a hash of the name, because reading a record must not grant
        access. A page that is not shared has one owner, ""."""
        if not self.shared:
            return ""
        return hashlib.sha256(self.visitor(name, session).encode()).hexdigest()[:16]

    def open(self) -> None:
        """Starts the worker, submits runs that were queued when the program ended, and removes expired runs.
        Can be called again."""
        self.worker.start()
        self._take_up()
        self.tidy()

    def _take_up(self) -> None:
        """Submits the queued runs of an earlier program, once."""
        with self._lock:
            if self._opened:
                return
            self._opened = True
            atexit.register(self.close)
            waiting = recovery.take_up(self._index)
        for past, folder in waiting:
            try:
                run_spec = past.run_spec()
            except ValueError as error:
                _log.warning("%s is not taken up again: %s", past.folder, error)
                folder.release()
                continue
            self._hand_in(past.owner, run_spec, folder, past.id, past.owner, order=past.order)

    def close(self) -> None:
        """Leaves queued runs in their folders, for the next start."""
        self._closed = True

    def submit(self, owner: str, run_spec: RunSpec, asker: str | None = None, address: str = "") -> Record:
        """Queues a run. `asker` is whose limit it counts against, its owner by default, beside its `address`.

        Raises FormError when no more runs are accepted, before anything is written.
        """
        self.open()
        asker = owner if asker is None else asker
        with self._place(asker, address):
            run_id = secrets.token_urlsafe(16)
            folder = RunFolder.new(self.outputs, run_id)
            if run_spec.request.image is not None:
                folder.keep_picture(run_spec.request.image)
            if run_spec.request.clip is not None and run_spec.form.clip:
                folder.keep_clip(Path(run_spec.form.clip))
            try:
                return self._hand_in(owner, run_spec, folder, run_id, asker, address)
            except FormError:
                folder.delete()
                raise

    def check_room(self, asker: str, address: str = "") -> None:
        """Raises FormError if a visitor, a program's address, or all visitors of a shared page together have
        as many active runs as allowed."""
        if not self.shared:
            return
        with self._lock:
            active = [(each.asker, each.address) for each in self._records.values() if not each.ended]
            active += self._arriving
        if sum(each == asker for each, _ in active) >= self.runs_per_visitor:
            raise FormError(text.enough_runs(self.runs_per_visitor))
        most = VISITORS_PER_ADDRESS * self.runs_per_visitor
        if address and sum(each == address for _, each in active) >= most:
            raise FormError(text.enough_runs_here(most))
        if len(active) >= RUNS_IN_ALL:
            raise FormError(text.queue_is_full(len(active)))

    @contextmanager
    def _place(self, asker: str, address: str) -> Iterator[None]:
        """Reserves a place for a run that is not queued yet. Raises FormError where none is free."""
        with self._lock:
            self.check_room(asker, address)
            self._arriving.append((asker, address))
        try:
            yield
        finally:
            with self._lock:
                self._arriving.remove((asker, address))

    @contextmanager
    def watching(self, owner: str, *streams: str | None) -> Iterator[None]:
        """Counts a page or a program as a viewer of the runs of `owner`, while one of `streams` is open. It
        shows one run at a time, and counts for the queued ones, too."""
        watcher = (owner, streams)
        with self._watching_lock:
            self._watching.append(watcher)
        try:
            yield
        finally:
            with self._watching_lock:
                self._watching.remove(watcher)

    def _is_watched(self, owner: str) -> bool:
        with self._watching_lock:
            streams = [each for of, each in self._watching if of == owner]
        return any(self.is_read(*each) for each in streams)

    def _unwatched_s(self, record: Record) -> float:
        """Returns the seconds since a run of its owner was last watched. Call it repeatedly: it records the
        time."""
        if self._is_watched(record.owner):
            record.watched_at = time.monotonic()
        return time.monotonic() - record.watched_at

    def extend(
        self, record: Record, blocks: int, path: Sequence[CameraMove], seed: int | None = None
    ) -> None:
        """Extends a video by `blocks` blocks along `path`. Raises FormError where that is impossible."""
        presenter = record.presenter
        try:
            run_spec = extend(presenter.run_spec, presenter.blocks, blocks, presenter.walked, path, seed)
            check(run_spec.request, run_spec.spec)
        except BudgetTooSmall as error:
            raise FormError(text.budget_too_small_to_go_on(str(error))) from error
        except ValueError as error:
            raise FormError(str(error)) from error
        with self._lock:
            if not record.ended:
                raise FormError(text.STILL_RUNNING)
            self.check_room(record.asker, record.address)
            with record.changed:
                record.watched_at = time.monotonic()
                run = self._submit(run_spec.job(record.id, presenter.blocks))
                presenter.extend(run_spec)
                record.begin_again(run)
        self._watch(record)

    def retake(self, record: Record, seed: int) -> None:
        """Generates the last block again, along the same path, from other noise. Raises FormError."""
        presenter = record.presenter
        steps = max(0, (presenter.blocks - 1) * presenter.run_spec.spec.latents_per_block - 1)
        path = as_moves(presenter.walked[steps:])
        self.change(record, RunPresenter.take_back)
        try:
            self.extend(record, 1, path, seed)
        except FormError:
            self.change(record, RunPresenter.put_back)
            raise

    def change(self, record: Record, do: Callable[[RunPresenter], None]) -> None:
        """Applies `do` to an ended run: takes blocks back, or puts them back. Raises FormError if it has not
        ended."""
        with self._lock, record.changed:
            if not record.ended:
                raise FormError(text.STILL_RUNNING)
            do(record.presenter)
            record.notify()
        self._write_down(record)

    def stop(self, record: Record) -> None:
        """Stops a run before its next denoising step. One that is stopping or has ended stays as it is."""
        if record.advance(RunState.STOPPING):
            record.run.stop()

    def move(self, record: Record, by: int) -> None:
        """Moves a run by `by` places in the queue, among runs of the same owner."""
        with self._lock:
            mine = self.waiting(record.owner)
            if record not in mine:
                return
            other = mine[max(0, min(len(mine) - 1, mine.index(record) + by))]
            if other is record:
                return
            place = other.run.place
            other.run.move(record.run.place)
            record.run.move(place)
            record.order, other.order = other.order, record.order
        for each in (record, other):
            self._write_down(each)

    def find(self, owner: str, run_id: str) -> Record | None:
        """Returns the run of `owner` with that id, if it is in memory."""
        record = self._records.get(run_id)
        return record if record is not None and record.owner == owner else None

    def waiting(self, owner: str) -> list[Record]:
        """Returns the queued runs of `owner`, in the order of the queue."""
        with self._lock:
            mine = [r for r in self._records.values() if r.owner == owner and r.run.place and not r.ended]
        return sorted(mine, key=lambda record: record.run.place)

    def current(self, owner: str) -> Record | None:
        """Returns the active run of `owner` to show: the running one, or the next. One that is SAVING
        precedes a running one: otherwise its end would not be shown."""
        with self._lock:
            active = [r for r in self._records.values() if r.owner == owner and not r.ended]
        return min(active, key=lambda record: (record.run.place, record.order), default=None)

    def last(self, owner: str) -> Record | None:
        """Returns the run of `owner` that ended last."""
        with self._lock:
            ended = [r for r in self._records.values() if r.owner == owner and r.ended]
        return max(ended, key=lambda record: record.order, default=None)

    def past(self, owner: str, most: int) -> list[Past]:
        """Returns ended runs of `owner`, the newest first, as their folders describe them."""
        return self._index.newest(most, owner, "done")

    def runs_of(self, owner: str, most: int) -> list[Past]:
        """Returns runs of `owner` in any state, the newest first, as their folders describe them."""
        return self._index.newest(most, owner)

    def find_past(self, owner: str, run_id: str) -> Past | None:
        """Returns an ended run as its folder describes it, and postpones its expiry, because its files are
        about to be fetched; None if `owner` has none with that id."""
        past = self._index.find(owner, run_id)
        if past is not None:
            self._retention.use(past.folder)
        return past

    def export(self, past: Past, kind: export.Kind) -> Path:
        """Writes a new file of a run in its own folder and returns it. Raises OSError or ValueError."""
        with self._retention.exporting(past.folder):
            return export.write(past, kind)

    @property
    def kept_for(self) -> str:
        """Returns how long videos are kept, as a sentence; empty if they are never deleted."""
        limits = self.limits
        return text.kept_for(limits.hours, limits.gib) if self.shared and limits.any else ""

    def forget(self, owner: str, run_id: str) -> None:
        """Deletes a run and its files. Raises FormError where that is impossible."""
        record = self.find(owner, run_id)
        if record is not None and not record.ended:
            raise FormError(text.STILL_RUNNING)
        past = self.find_past(owner, run_id)
        try:
            if past is not None and not self._delete(past.folder, record):
                raise FormError(text.ANOTHER_PROGRAMS)
        except OSError as error:
            raise FormError(text.not_deleted(error.strerror or str(error))) from error
        if record is not None:
            with self._lock:
                self._records.pop(run_id, None)

    def tidy(self) -> None:
        """Deletes the expired runs of a shared page, except those that are active or watched."""
        if not self.shared or not self.limits.any:
            return
        with self._tidying:
            for entry in self._retention.over(self._index.entries(), self._may_go):
                record = self._record_in(entry.folder)
                try:
                    if self._delete(entry.folder, record) and record is not None:
                        with self._lock:
                            self._records.pop(record.id, None)
                except OSError as error:
                    _log.warning("%s should go and could not be removed: %s", entry.folder, error)

    def _may_go(self, entry: Entry) -> bool:
        record = self._record_in(entry.folder)
        return record is None or (record.ended and not self._is_watched(record.owner))

    def _record_in(self, folder: Path) -> Record | None:
        with self._lock:
            records = self._records.values()
            return next((each for each in records if each.presenter.folder.path.name == folder.name), None)

    def _delete(self, path: Path, record: Record | None) -> bool:
        """Deletes a run's folder, unless another program has locked it; returns whether it is gone. Raises
        OSError."""
        if record is not None and record.presenter.folder.path.name == path.name:
            record.presenter.folder.delete()
            return True
        folder = RunFolder(path)
        try:
            if folder.hold():
                folder.delete()
                return True
            return False
        finally:
            folder.release()

    def _hand_in(
        self,
        owner: str,
        run_spec: RunSpec,
        folder: RunFolder,
        run_id: str,
        asker: str,
        address: str = "",
        order: float | None = None,
    ) -> Record:
        """Submits a run. `order` is that of a restored run; others are ordered by time."""
        presenter = RunPresenter(run_spec, self.worker.info, folder, run_id)
        with self._lock:
            run = self._submit(run_spec.job(run_id))
            record = Record(
                run_id, owner, presenter, run, time.time() if order is None else order, asker, address
            )
            self._records[run_id] = record
            self._forget_old()
        self._watch(record)
        return record

    def _submit(self, job: Job) -> RunLike:
        try:
            return self.worker.submit(job)
        except RuntimeError as error:
            _log.warning("the worker took no job: %s", error)
            raise FormError(text.CLOSED) from error

    def _forget_old(self) -> None:
        ended = [record.id for record in self._records.values() if record.ended]
        for run_id in ended[: max(0, len(ended) - REMEMBERED)]:
            self._records.pop(run_id).presenter.folder.release()

    def _watch(self, record: Record) -> None:
        self._write_down(record)
        # A Space identifies by the context which user's GPU quota a run takes.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._follow, record), daemon=True).start()

    def _follow(self, record: Record) -> None:
        """Handles a run's events until it is DONE."""
        presenter = record.presenter
        try:
            for event in record.run.events(HEARTBEAT_S):
                if event is not None:
                    self._take(record, event)
                if self.shared and self._unwatched_s(record) > ABANDONED_S:
                    self.stop(record)
        except Exception:
            _log.exception("a run could not be shown")
            record.run.stop()
            with record.changed:
                record.advance(RunState.SAVING)
                presenter.fail(text.UNEXPECTED)
        # run.json says DONE before the record does: a client that sees DONE finds the files.
        if presenter.blocks:
            self._write_down(record, RunState.DONE)
        elif not self._closed:
            # A run without a block is removed, but a closed program leaves queued ones to its next start.
            self._clear(record)
        with self._lock, record.changed:
            record.advance(RunState.DONE)
            # Moved to the end, because `_forget_old` drops from the front: the runs that ended first.
            if self._records.pop(record.id, None) is not None:
                self._records[record.id] = record
            record.notify()
        self.tidy()

    def _clear(self, record: Record) -> None:
        try:
            record.presenter.folder.delete()
        except OSError:
            _log.exception("the folder of a run that made nothing is left behind")

    def _take(self, record: Record, event: Event) -> None:
        begins = isinstance(event, (Progress, Update)) and record.advance(RunState.RUNNING)
        with record.changed:
            if isinstance(event, (Done, Failed)):
                record.advance(RunState.SAVING)
            # The end is shown once the run is DONE.
            if record.presenter.take(event) and record.state < RunState.SAVING:
                record.notify()
        if begins:
            self._write_down(record)

    def _write_down(self, record: Record, state: RunState | None = None) -> None:
        """Writes run.json, with `state` in place of the record's own."""
        with record.changed:
            record.presenter.folder.record(
                {
                    "id": record.id,
                    "owner": record.owner,
                    "state": (state or record.state).written,
                    "order": record.order,
                    "created": datetime.fromtimestamp(record.order).isoformat(timespec="seconds"),
                    **record.presenter.settings(),
                }
            )
