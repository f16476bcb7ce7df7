"""Presenter of one run: turns its events into the values that the page shows. Knows nothing of widgets."""

from __future__ import annotations

import io
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from backends.camera import CameraMove, each_latent, format_path
from backends.events import Done, Event, Failed, Loading, Progress, Queued, Update
from backends.runtime.hardware import DeviceInfo
from ui import text
from ui.form.run_spec import Keys, RunSpec, as_moves
from ui.runs import compare_view, mp4, panels, player_view, status_view
from ui.runs.folder import RunFolder, slug, video_name
from ui.runs.quality import Likeness
from ui.runs.revisit import Seen, returns
from ui.runs.side import Block, Figures, SideResult, likeness_to, phases

_PROGRESS_S = 0.12  # between two status lines: faster ones are not read, and each costs a message
_log = logging.getLogger(__name__)


class View(NamedTuple):
    """Values that show a run in its current state."""

    status: status_view.Status
    player: player_view.Screen
    panels: dict[str, Mapping[str, Any]]  # by name; a panel that is left out keeps its value

    @property
    def shown(self) -> dict[str, Mapping[str, Any]]:
        """Returns all values by the names of the components that show them."""
        return {"status": self.status, "player": self.player, **self.panels}

    def finished(self) -> View:
        """Returns the view for a page that opens now: without the blocks of finished videos, which are
        deleted soon."""
        tracks: list[player_view.Track] = [
            {**track, "segments": [] if track["final"] else track["segments"]}
            for track in self.player["tracks"]
        ]
        return self._replace(player={**self.player, "tracks": tracks})


class RunPresenter:
    """Presenter of a run: turns its events into a View, and its blocks into files.

    After the end the last blocks can be taken back and put back, and the video can be extended.
    """

    def __init__(
        self,
        run_spec: RunSpec,
        device: DeviceInfo | None,
        folder: RunFolder,
        run_id: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.run_spec = run_spec
        self.folder = folder
        self._device = device
        self._run_id = run_id
        self._clock = clock
        returning = returns(run_spec.request.moves, run_spec.spec, run_spec.request.blocks)
        self.results = [SideResult(side, returning) for side in run_spec.sides]
        self._reference: dict[int, np.ndarray] = {}  # the first side's last block, uint8 frames by its number
        self._taken_back: list[list[tuple[SideResult, Block]]] = []
        self._steered: dict[int, CameraMove] = {}  # by block
        self._memory = self._peak = 0
        self._notes: tuple[str, ...] = ()
        self._results: dict[str, Any] = {}
        self._view_number = 0
        self._begin(first_block=0)

    def _begin(self, first_block: int) -> None:
        """Sets up a new screen for blocks from `first_block` on; existing blocks are shown before them."""
        spec = self.run_spec.spec
        self.first_block = first_block
        self._percent = self._progress_shown = self._seconds = 0.0
        self._blocks_here = self._frames_here = 0  # blocks and frames of all sides, made in `_seconds`
        self._taken_back.clear()
        self._status = status_view.line(text.SENT, "busy")
        self._player = self._screen()
        for result, track in zip(self.results, self._player["tracks"], strict=True):
            if result.blocks:
                # The player takes concatenated segments as one.
                track["mime"] = result.mime
                self._show(track, f"{self._view_number}-{track['file']}-before", _joined(result))
        self._player["start"] = max(0.0, max(result.frames for result in self.results) / spec.fps - 1.0)
        self._measure()

    def _screen(self) -> player_view.Screen:
        self._view_number += 1
        spec, request = self.run_spec.spec, self.run_spec.request
        several = len(self.results) > 1
        name = video_name(spec.title, request.prompt, request.seed)
        return {
            **player_view.nothing(spec.width, spec.height),
            "run": f"{self._run_id}.{self._view_number}",
            "fps": spec.fps,
            "tracks": [
                player_view.track(
                    result.side.name,
                    *self._caption(result),
                    spec.video_frames(result.side.blocks(request.blocks)) / spec.fps,
                    f"{name}-{slug(result.side.name)}" if several else name,
                )
                for result in self.results
            ],
        }

    @property
    def view(self) -> View:
        """Returns copies of mutable parts, because Gradio sends the difference to the value it was given
        before."""
        tracks: list[player_view.Track] = [
            {**track, "segments": list(track["segments"])} for track in self._player["tracks"]
        ]
        return View(self._status, {**self._player, "tracks": tracks}, self._panels)

    @property
    def figures(self) -> list[Figures]:
        return [result.figures(self.run_spec.spec.fps) for result in self.results]

    @property
    def blocks(self) -> int:
        """Returns the number of blocks of the longest side."""
        return max(len(result.blocks) for result in self.results)

    @property
    def walked(self) -> list[Keys]:
        """Returns the keys pressed during each latent frame after the first: the planned path, or the steered
        one."""
        planned = list(each_latent(self.run_spec.request.moves))
        each = self.run_spec.spec.latents_per_block
        steps = max(0, self.blocks * each - 1)
        keys = planned[:steps] + [()] * (steps - len(planned))
        for block, move in self._steered.items():
            for step in range(max(0, block * each - 1), min(steps, (block + 1) * each - 1)):
                keys[step] = move.keys
        return keys

    def take(self, event: Event) -> bool:
        """Handles an event; returns whether the view has changed."""
        match event:
            case Queued(place):
                self._status = status_view.line(text.queued(place), "busy")
            case Loading(message):
                self._status = status_view.line(message, "busy")
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
        """Ends the run with an error. Finished blocks are saved and can be played."""
        self._results |= {"failed": message}
        self._end()
        self._status = self._line(message, "error", ())

    def extend(self, run_spec: RunSpec) -> None:
        """Continues the same video; `run_spec` is the result of `ui.form.run_spec.extend` for the current
        one."""
        self.run_spec = run_spec
        self._begin(self.blocks)

    @property
    def blocks_taken_back(self) -> int:
        """Returns the number of blocks that can be put back; 0 once the video is extended."""
        return len(self._taken_back)

    def take_back(self) -> None:
        """Removes the last block from the sides that have it."""
        last = self.blocks
        gone = [(result, result.blocks.pop()) for result in self.results if len(result.blocks) == last]
        self._taken_back.append(gone)
        self._show_changed(text.taken_back(self.blocks))

    def put_back(self) -> None:
        """Restores the block that was taken back last."""
        for result, block in self._taken_back.pop():
            result.blocks.append(block)
        self._show_changed(text.put_back(self.blocks))

    def _show_changed(self, message: str) -> None:
        self._player = self._screen()
        self._end()
        self._status = self._line(message, "done", ())

    def _progress(self, event: Progress) -> bool:
        now = self._clock()
        if now - self._progress_shown < _PROGRESS_S:
            return False
        self._progress_shown = now
        step = event.step / max(event.steps, 1)
        if event.block < self.first_block:
            message = text.remaking(event.block, self.first_block)
            self._percent = (event.block + step) / max(self.first_block, 1)
        else:
            done = sum(len(result.blocks) for result in self.results) + step
            whole = sum(result.side.blocks(event.blocks) for result in self.results)
            self._percent = done / max(whole, 1)
            name = self.results[event.side].side.name if len(self.results) > 1 else ""
            message = text.progress(
                event.block, event.blocks, event.step, event.steps, name, self._left(whole - done)
            )
        self._status = status_view.line(message, "busy", self._percent)
        return True

    def _left(self, blocks: float) -> float | None:
        """Returns the seconds that `blocks` blocks will take; None until one block is finished."""
        return blocks * self._seconds / self._blocks_here if self._blocks_here else None

    def _update(self, event: Update) -> None:
        segment, result = event.segment, self.results[event.side]
        began = self._clock()
        data, mime = mp4.encode_segment(segment.frames, segment.fps)
        video_ms = 1e3 * (self._clock() - began)
        if event.move is not None:
            self._steered[segment.index] = event.move
        block = Block(
            data,
            len(segment.frames),
            event.stats,
            phases(event.block_ms, segment.ms, event.stats, result.stats, video_ms),
            event.memory_bytes,
            Seen() if self._steered else result.look(segment.frames),
            self._likeness(event),
        )
        if not any(each.blocks for each in self.results):
            self.folder.keep_thumbnail(segment.frames[len(segment.frames) // 2])
        result.blocks.append(block)
        self._seconds, self._blocks_here = event.seconds, self._blocks_here + 1
        self._frames_here += len(segment.frames)
        self._memory, self._peak = event.memory_bytes, max(self._peak, event.peak_bytes)
        track = self._player["tracks"][event.side]
        track["mime"] = result.mime = mime
        self._show(track, f"{self._view_number}-{track['file']}-{segment.index:05d}", data)
        track["ended"] = len(result.blocks) >= result.side.blocks(self.run_spec.request.blocks)
        track["note"], track["figure"] = self._caption(result)
        self._measure()

    def _likeness(self, event: Update) -> Likeness | None:
        """Returns the block's similarity to the first side's block of the same number, which comes first;
        None for the first side."""
        index, frames = event.segment.index, event.segment.frames
        if len(self.results) == 1:
            return None
        if event.side == 0:
            self._reference = {index: frames}
            return None
        return likeness_to(frames, self._reference.get(index))

    def _caption(self, result: SideResult) -> tuple[str, str]:
        spec = self.run_spec.spec
        side = result.figures(spec.fps)
        fate = text.fate(result.side.drops_from, result.side.ends_after, spec.video_frames)
        return compare_view.caption(side, fate, len(self.results) > 1), compare_view.headline(side)

    def _show(self, track: player_view.Track, name: str, data: bytes) -> None:
        file = self.folder.keep(name, data)
        where = player_view.address(file) if file else player_view.inline(data)
        if where:
            track["segments"].append(where)

    def _measure(self) -> None:
        run = panels.Measured(
            self.run_spec,
            self.figures,
            self.run_spec.spec.fps,
            self._device,
            pace=self._frames_here / max(self._seconds, 1e-6),
            memory_bytes=self._memory,
            peak_bytes=self._peak,
            ended=self._player["ended"],
        )
        self._panels = panels.values(run)

    def _done(self, event: Done) -> None:
        spec = self.run_spec.spec
        self._notes = event.notes or self._notes
        self._peak = max(self._peak, event.peak_bytes)
        self._results |= {"stopped": event.stopped, "peak_bytes": self._peak}
        self._results["seconds"] = round(self._results.get("seconds", 0.0) + event.seconds, 3)
        self._end()
        frames = max(result.frames for result in self.results)
        if event.stopped:
            message = text.stopped(frames, spec.fps, event.freed_bytes, event.memory_bytes)
        else:
            ratio = max((result.stats.ratio for result in self.results if result.stats), default=1.0)
            message = text.done(frames, spec.fps, event.seconds, self._peak, ratio)
        kept = text.kept(event.kept_bytes) if event.kept_bytes else ""
        self._status = self._line(message, "done", (*self._notes, kept))

    def _line(self, message: str, kind: status_view.Kind, notes: tuple[str, ...]) -> status_view.Status:
        percent = 1.0 if kind == "done" else self._percent
        return status_view.line(message, kind, percent, (*notes, self.folder.problem))

    def settings(self) -> dict[str, Any]:
        """Returns the settings and the results of the run, for run.json and the metadata of its videos."""
        spec = self.run_spec.spec
        return {
            **self.run_spec.settings(),
            "device": self._device.name if self._device else "",
            "steered": bool(self._steered),
            "walked": format_path(as_moves(self.walked)) if "camera" in spec.inputs else "",
            "made": {
                **self._results,
                "blocks": self.blocks,
                "frames": max(result.frames for result in self.results),
                "fps": spec.fps,
                "sides": self.figures,
            },
        }

    def _end(self) -> None:
        """Saves the videos of all sides."""
        self._player["ended"] = True
        self._measure()
        settings = self.settings()
        for number, (result, track) in enumerate(zip(self.results, self._player["tracks"], strict=True)):
            track["ended"] = True
            if not result.blocks:
                continue
            try:
                track["final"] = self._save(result, track["file"], {**settings, "side": number})
            except Exception:
                _log.exception("a video could not be put together")
                self.folder.problem = text.NO_FILE
        if not self.folder.problem:
            self.folder.remove_segments()
        # Otherwise the segments are the only copy: the next start makes a video of them.

    def _save(self, result: SideResult, name: str, settings: dict[str, Any]) -> str | None:
        """Returns the address of the finished file, or the file itself as a data URL where it cannot be
        written."""
        segments = [block.data for block in result.blocks]
        fps = self.run_spec.spec.fps
        final = self.folder.finish(segments, name, fps, settings)
        if final is not None:
            # The number defeats caches: this name had other content before a block was taken back.
            return f"{player_view.address(final)}?v={self._view_number}"
        sink = io.BytesIO()
        mp4.join(segments, sink, fps, settings)
        return player_view.inline(sink.getvalue())


def _joined(result: SideResult) -> bytes:
    return b"".join(block.data for block in result.blocks)
