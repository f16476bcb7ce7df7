"""Background worker: one process per device, jobs in, events out, with Stop and recovery from crashes.

The page never touches the device: a CUDA error or the out-of-memory killer ends the process, not the page. A
process that does not answer is ended too: one that is suspended or starved, and one whose run does not end
when stopped, as on a GPU that hangs. The next job starts only when the process reports that the last one has
released everything.
"""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

from backends import checkup
from backends.checkup import Part
from backends.events import Done, Failed, Loading, Progress, Queued, Update
from backends.runtime import generator_process
from backends.runtime.errors import explain
from backends.runtime.generator_process import NOTHING_MADE, Controls, Ended, Order, make_controls
from backends.runtime.hardware import DeviceInfo
from backends.runtime.jobs import Job, Run, Side

__all__ = ["DeviceInfo", "Job", "Run", "Side", "Worker"]

LOADERS = "backends.registry:load"
_ROOT = str(Path(__file__).resolve().parents[2])  # the folder this package is imported from
_GRACE_S = 3.0  # for a process or a thread to end
SILENCE_S = 10.0  # a process is ended after this long without an answer
_LOADING = 6  # a factor on that while it loads: reading a large library from a slow disk delays the beats
_LOOKS = 40  # checks of a process per silence period
_STARTING = "Starting the generator process."
_OFTEN = {9: "often out of memory", 11: "a crash in native code", 7: "often shared memory that ran out"}
_log = logging.getLogger(__name__)


class Worker:
    """One device and its queue. Constructing it starts nothing; the first job, or `start`, does.

    `device` is `auto`, `cpu` or `cuda`. `loaders` is `module:function` of `load(id, device, on_status)` in
    the process, which is ended if it does not answer for `silence_s` seconds.
    """

    def __init__(self, device: str = "auto", loaders: str = LOADERS, silence_s: float = SILENCE_S) -> None:
        self._silence_s = silence_s
        self._device = device
        self._loaders = loaders
        self._changed = threading.Condition(threading.RLock())
        self._waiting: deque[Run] = deque()
        self._active: Run | None = None
        self._handed_over = False  # the active run, to the process
        self._number = 0  # of the last order
        self._process: _Process | None = None
        self._info: DeviceInfo | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self._gone_silent = False  # the last process fell silent, and no other has been started

    @property
    def info(self) -> DeviceInfo | None:
        """Returns the device's description; None until the process is up."""
        return self._info

    def start(self) -> None:
        """Starts the process in the background, so that the first job need not wait.

        May be called several times.
        """
        with self._changed:
            if self._closed:
                raise RuntimeError("this worker is closed: make another one")
            if self._thread is None:
                atexit.register(self.close)
                self._thread = threading.Thread(target=self._serve, name="worker", daemon=True)
                self._thread.start()

    def about(self, outputs: Path) -> list[Part]:
        """Returns a report on this machine from a separate process. Takes seconds or a minute."""
        return checkup.elsewhere(self._device, outputs)

    def submit(self, job: Job) -> Run:
        """Queues a job. Raises RuntimeError once closed."""
        self.start()
        with self._changed:
            run = Run(job, self._stop, self._steer, self._reorder)
            if self._active is None:
                self._active = run
                if self._info is None:
                    run.put(Loading(_STARTING))
            else:
                self._waiting.append(run)
                self._tell_places()
            self._changed.notify_all()
        return run

    def close(self) -> None:
        """Ends the process and every run. May be called several times."""
        with self._changed:
            self._closed = True
            process, self._process = self._process, None
            runs = [run for run in (self._active, *self._waiting) if run is not None]
            self._waiting.clear()
            self._changed.notify_all()
        for run in runs:
            run.put(Failed("The generator was closed before the end. What was made so far is kept."))
        if process is not None:
            process.end()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(_GRACE_S)
        atexit.unregister(self.close)

    def _stop(self, run: Run) -> None:
        with self._changed:
            if run is self._active and self._handed_over:
                if self._process is not None:
                    self._process.controls.stop.value = self._number
            elif run is self._active:
                run.put(NOTHING_MADE)
            elif run in self._waiting:
                self._waiting.remove(run)
                run.place = 0
                run.put(NOTHING_MADE)
                self._tell_places()

    def _reorder(self, run: Run, place: int) -> None:
        with self._changed:
            if run in self._waiting:
                self._waiting.remove(run)
                self._waiting.insert(max(0, place - 1), run)
                self._tell_places()

    def _steer(self, run: Run, keys: tuple[str, ...]) -> None:
        with self._changed:
            if run is not self._active or not self._handed_over or self._process is None:
                return
            generator_process.hold(self._process.controls, self._number, keys)

    def _serve(self) -> None:
        """Runs in the worker's thread: starts the process, then gives it one run after another."""
        if hasattr(signal, "pthread_sigmask"):
            # Inherited by the process, which a Ctrl-C would otherwise kill while it is still importing.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        last = self._bring_up()
        while True:
            with self._changed:
                if last is not None:
                    self._end_active(last)
                    last = None
                restart = self._gone_silent and self._active is None and not self._closed
            if restart:
                # Restarted in advance for the next run, which reports the error if there is another.
                self._bring_up()
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._active is not None)
                run = self._active
                if self._closed or run is None:
                    return
            last = self._drive(run)

    def _end_active(self, last: Done | Failed) -> None:
        """Clears the active run, then reports its end: a job submitted in answer must not queue behind it."""
        if isinstance(last, Failed) and not self._closed:
            _log.error("%s", "\n".join(filter(None, (last.message, last.detail))))
        ended, self._active = self._active, self._waiting.popleft() if self._waiting else None
        self._handed_over = False
        if self._active is not None:
            self._active.place = 0
        if ended is not None:
            ended.put(last)
        self._tell_places()

    def _drive(self, run: Run) -> Done | Failed:
        """Executes one run. Returns its last event once the device is free again."""
        if not run.ended and (self._process is None or not self._process.alive):
            run.put(Loading(_STARTING))
            problem = self._bring_up()
            if problem is not None:
                return problem
        process = self._process
        with self._changed:
            # Stopped or closed meanwhile.
            if process is None or run.ended:
                return NOTHING_MADE
            self._number += 1
            self._handed_over = True
            order = Order(self._number, run.job)
            process.begin(order.number)
        try:
            process.pipe.send(order)
            while not isinstance(report := process.pipe.recv(), Ended):
                process.heard(report)
                run.put(report)
        except (EOFError, OSError):
            # Described before it is discarded, which would end it by another signal.
            failed = Failed(self._describe_end(process))
            self._discard()
            return failed
        except Exception as error:
            self._discard()
            return explain(error, "while the job was handed over")
        finally:
            process.begin(0)
        if not report.usable:
            self._discard()
        return report.event

    def _bring_up(self) -> Failed | None:
        """Starts a process and waits for its first report. Returns the error, or None."""
        self._discard()
        self._gone_silent = False
        try:
            process = _launch(self._device, self._loaders)
        except Exception as error:
            return explain(error, "while starting the generator process")
        with self._changed:
            if self._closed:
                process.end()
                return None
            self._process = process
        try:
            report = process.pipe.recv()
        except (EOFError, OSError):
            report = Failed(_describe_exit(process.exit_code()))
        if isinstance(report, Failed):
            self._discard()
            return report
        self._info = report.info
        threading.Thread(target=process.watch, args=(self._silence_s,), daemon=True).start()
        return None

    def _describe_end(self, process: _Process) -> str:
        exit_code = process.exit_code()
        if not process.silent_s:
            return _describe_exit(exit_code)
        self._gone_silent = True
        return _did_not_answer(process.silent_s)

    def _discard(self) -> None:
        with self._changed:
            process, self._process = self._process, None
        if process is not None:
            process.end()

    def _tell_places(self) -> None:
        for place, run in enumerate(self._waiting, start=1):
            if run.place != place:
                run.place = place
                run.put(Queued(place))


@dataclass(slots=True, eq=False)
class _Process:
    """A started process, the page's end of its pipe, and their shared memory."""

    process: BaseProcess
    pipe: Connection
    controls: Controls
    silent_s: float = 0.0  # how long it had not answered when it was ended for that
    _order: int = 0  # the number of its current order; 0 for none
    _denoises: bool = False  # it is past loading
    _made: bool = False  # it has finished a block
    _heard_at: float = 0.0
    _longest_s: float = 0.0  # the longest time between two reports of a run past loading

    def begin(self, order: int) -> None:
        """Notes the number of its new order, 0 for none."""
        self._order, self._denoises, self._made = order, False, False

    def heard(self, report: object) -> None:
        """Notes a report of its run, and the time since the one before."""
        now = time.monotonic()
        if self._denoises:
            self._longest_s = max(self._longest_s, now - self._heard_at)
        self._denoises = self._denoises or isinstance(report, Progress)
        self._made = self._made or isinstance(report, Update)
        self._heard_at = now

    def watch(self, silence_s: float) -> None:
        """Ends the process if it stops answering. Returns when it has ended, for any reason.

        Its beats stop when it is suspended, or starved of memory or time. A hanging GPU does not stop the
        beats, but a stopped run does not end: it is given twice its longest step so far. Both limits are
        longer while a library is loaded, or kernels are compiled for the first block.

        Checks are counted instead of time: if this program is suspended as well, silence does not count.
        """
        look_s = silence_s / _LOOKS
        beats, silent_s, stopping_s = -1, 0.0, 0.0
        while self.alive:
            time.sleep(look_s)
            before, beats = beats, self.controls.beats.value
            silent_s = silent_s + look_s if beats == before else 0.0
            stops = self._order and self.controls.stop.value == self._order
            stopping_s = stopping_s + look_s if stops else 0.0
            if silent_s >= silence_s * (_LOADING if self._order and not self._denoises else 1):
                self.silent_s = silent_s
            elif stopping_s >= max(silence_s * (1 if self._made else _LOADING), 2 * self._longest_s):
                self.silent_s = stopping_s
            if self.silent_s:
                # A suspended process takes no other signal.
                self.process.kill()
                return

    @property
    def alive(self) -> bool:
        # A killed process takes a moment to exit.
        return not self.silent_s and self.process.is_alive()

    def exit_code(self) -> int | None:
        """Returns the exit code of a process whose pipe has closed."""
        self.process.join(_GRACE_S)
        return self.process.exitcode

    def end(self) -> None:
        """Returns when the process is gone. Its pipe is left to the thread that may be reading it."""
        for stop in (self.process.terminate, self.process.kill):
            stop()
            self.process.join(_GRACE_S)
            if not self.process.is_alive():
                return


def _launch(device: str, loaders: str) -> _Process:
    # A process forked from a page with threads may hang, and cannot use CUDA if the page ever did.
    context = multiprocessing.get_context("spawn")
    controls = make_controls(context)
    pipe, childs_end = context.Pipe()
    process = context.Process(
        target=generator_process.main,
        args=(childs_end, device, loaders, controls),
        name="generator",
        daemon=True,
    )
    with _without_main():
        process.start()
    # Leaves the process as its only owner, so that its death closes the pipe.
    childs_end.close()
    return _Process(process, pipe, controls)


@contextmanager
def _without_main() -> Iterator[None]:
    """Hides the program's main module from `multiprocessing`, which would run it again in the new process.

    A script that ends in `demo.launch()` would open a second page there and never generate. Also adds this
    package's folder to `sys.path`, which the process inherits: after a change of the working directory, as in
    a notebook, a relative path there may be wrong.
    """
    if _ROOT not in sys.path:
        sys.path.append(_ROOT)
    main = sys.modules["__main__"]
    # Without a file and a spec there is nothing to run again.
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _did_not_answer(seconds: float) -> str:
    return (
        f"The generator process did not answer for {seconds:.0f} s and was ended. "
        "What was made so far is kept; press Generate to try again."
    )


def _describe_exit(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        often = _OFTEN.get(-exit_code, signal.strsignal(-exit_code) or "unknown")
        how = f"was ended by the system (signal {-exit_code}, {often})"
    else:
        how = f"ended by itself (exit code {exit_code})"
    return f"The generator process {how}. What was made so far is kept; press Generate to try again."
