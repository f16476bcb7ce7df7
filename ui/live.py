"""One run as its page sees it: events in, what to show out. Knows nothing of widgets."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from backends.base import BackendSpec, Done, Event, Failed, Loading, Progress, Queued, Update
from backends.jobs import Job
from backends.plan import Plan
from ui import gauge, media, player, status, text
from ui.folder import RunFolder, video_name

_PROGRESS_S = 0.12  # between two lines of progress: more is not read, and costs a message each
_log = logging.getLogger(__name__)


class View(NamedTuple):
    """What the page shows of a run right now."""

    status: dict[str, Any]
    player: dict[str, Any]
    gauge: dict[str, Any]


class Live:
    """Turns a run's events into what the page shows, and its blocks into files."""

    def __init__(
        self,
        job: Job,
        spec: BackendSpec,
        settings: dict[str, Any],
        plan: Plan,
        folder: RunFolder,
        run_id: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._spec = spec
        self._request = job.request
        self._settings = settings
        self._plan = plan
        self._folder = folder
        self._clock = clock
        self._segments: list[bytes] = []
        self._points: list[gauge.Point] = []
        self._frames = 0
        self._ratio = 1.0
        self._percent = 0.0
        self._progress_shown = 0.0
        blocks = job.request.blocks
        self._status = status.line(text.SENT, "busy")
        self._gauge = gauge.planned(spec, job.codec, job.policy, blocks)
        self._player: dict[str, Any] = {
            **player.nothing(spec.width, spec.height),
            "run": run_id,
            "codec": "",
            "planned": spec.video_frames(blocks) / spec.fps,
            "final": None,
            "name": video_name(spec.title, job.request.prompt, job.request.seed) + ".mp4",
        }

    @property
    def view(self) -> View:
        """Copies of what changes, because Gradio sends the difference to what it was given before."""
        return View(self._status, {**self._player, "segments": list(self._player["segments"])}, self._gauge)

    def take(self, event: Event) -> bool:
        """Whether there is something new to see."""
        match event:
            case Queued(place):
                self._status = status.line(text.queued(place), "busy")
            case Loading(said):
                self._status = status.line(said, "busy")
            case Progress():
                return self._progress(event)
            case Update():
                self._update(event)
            case Done():
                self._done(event)
            case Failed():
                self.fail(event.message)
        return True

    def fail(self, message: str) -> None:
        """The end by an error: what was made is kept and can be played."""
        self._end()
        self._status = self._line(message, "error", ())

    def _progress(self, event: Progress) -> bool:
        now = self._clock()
        if now - self._progress_shown < _PROGRESS_S:
            return False
        self._progress_shown = now
        self._percent = (event.block + event.step / max(event.steps, 1)) / max(event.blocks, 1)
        said = text.progress(event.block, event.blocks, event.step, event.steps)
        self._status = status.line(said, "busy", self._percent)
        return True

    def _update(self, event: Update) -> None:
        segment, stats = event.segment, event.stats
        data, codec = media.encode_segment(segment.frames, segment.fps)
        self._segments.append(data)
        self._frames += len(segment.frames)
        self._ratio = stats.ratio
        file = self._folder.keep(segment.index, data)
        where = player.address(file) if file else player.inline(data)
        if where:
            self._player["segments"].append(where)
            self._player["codec"] = codec
        self._points.append(gauge.Point(stats.total_frames, stats.stored_bytes, stats.bf16_bytes))
        self._gauge = gauge.measured(
            stats,
            self._points,
            self._plan.bf16_bytes,
            self._request.blocks * self._spec.latents_per_block,
            self._frames / max(event.seconds, 1e-6),
            event.block_ms,
        )

    def _done(self, event: Done) -> None:
        fps = self._spec.fps
        self._settings["made"] = {
            "frames": event.frames,
            "seconds": round(event.seconds, 3),
            "stopped": event.stopped,
            "peak_bytes": event.peak_bytes,
            "kv_bytes": self._points[-1].stored_bytes if self._points else 0,
            "bf16_bytes": self._points[-1].bf16_bytes if self._points else 0,
        }
        self._end()
        if event.stopped:
            said = text.stopped(event.frames, fps)
        else:
            said = text.done(event.frames, fps, event.seconds, event.peak_bytes, self._ratio)
        self._status = self._line(said, "done", event.notes)

    def _line(self, said: str, kind: status.Kind, notes: tuple[str, ...]) -> dict[str, Any]:
        percent = 1.0 if kind == "done" else self._percent
        return status.line(said, kind, percent, (*notes, self._folder.problem))

    def _end(self) -> None:
        """Saves what there is. Called once, by whichever event is the last."""
        self._player["ended"] = True
        if not self._segments:
            return
        self._gauge = gauge.ended(self._gauge)
        name = Path(self._player["name"]).stem
        try:
            final = self._folder.finish(self._segments, name, self._spec.fps, self._settings)
            self._player["final"] = player.address(final) if final else self._unsaved()
        except Exception:
            _log.exception("the video could not be put together")
            self._folder.problem = text.NO_FILE

    def _unsaved(self) -> str | None:
        sink = io.BytesIO()
        media.join(self._segments, sink, self._spec.fps, self._settings)
        return player.inline(sink.getvalue())
