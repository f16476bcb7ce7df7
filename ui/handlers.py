"""What the widgets do. A run lives as long as its viewer: one that leaves stops it."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import gradio as gr

from backends import registry
from backends.base import Event
from backends.camera import PathError, parse_path
from backends.check import MAX_SEED
from backends.worker import DeviceInfo, Job
from ui import chips, controls, form, gauge, pose, status, text
from ui.controls import Controls
from ui.folder import RunFolder
from ui.form import Form, FormError
from ui.live import Live
from ui.pictures import PictureError, read_picture

_HEARTBEAT_S = 1.0  # the longest a viewer who left goes unnoticed between events
_log = logging.getLogger(__name__)

Changes = dict[Any, Any]  # component -> new value; the others stay as they are


class RunLike(Protocol):
    @property
    def id(self) -> str: ...

    def stop(self) -> None: ...

    def events(self, timeout: float) -> Iterator[Event | None]: ...


class WorkerLike(Protocol):
    """What the page asks of `backends.worker.Worker`; tests bring their own."""

    @property
    def info(self) -> DeviceInfo | None: ...

    def start(self) -> None: ...

    def submit(self, job: Job) -> RunLike: ...


class Stage(NamedTuple):
    """Where a run is shown, and the id of the one this visitor started last."""

    player: gr.HTML
    status: gr.HTML
    gauge: gr.HTML
    run_id: gr.State


@dataclass(slots=True)
class _Watched:
    """A run and its only viewer."""

    run: RunLike
    live: Live
    seed: int
    stopping: bool = False


class Handlers:
    """The page's behaviour for all its visitors. Runs are found by their own unguessable ids."""

    def __init__(self, worker: Any, outputs: Path, widgets: Controls, stage: Stage) -> None:
        self._worker: WorkerLike = worker
        self._outputs = outputs
        self._widgets = widgets
        self._stage = stage
        self._runs: dict[str, _Watched] = {}

    def choose_model(self, model: str, preset: str) -> Changes:
        ui = self._widgets
        entry = next(entry for entry in registry.entries() if entry.spec.id == model)
        spec = entry.spec
        steered = "camera" in spec.inputs
        changes: Changes = {
            ui.about: controls.about(entry),
            ui.examples: chips.groups([("", spec.examples)]),
            ui.vocabulary_fold: gr.Accordion(visible=bool(spec.vocabulary)),
            ui.vocabulary: chips.groups(spec.vocabulary),
            ui.picture: gr.File(visible="image" in spec.inputs),
            ui.camera: gr.Column(visible=steered),
            ui.blocks: gr.Slider(maximum=spec.max_blocks, value=spec.default_blocks),
            ui.as_path: gr.Checkbox(visible=steered, value=False),
            ui.mode: controls.modes(spec),
        }
        changes |= dict(zip(ui.policy_numbers, controls.policy_values(spec), strict=True))
        return changes | self._codec_numbers(model, preset)

    def choose_mode(self, model: str, mode: str | None) -> Changes:
        ui, spec = self._widgets, registry.find(model)
        values = controls.policy_values(spec, mode or "")
        changes: Changes = {ui.mode: controls.modes(spec, mode or "")}
        return changes | dict(zip(ui.policy_numbers, values, strict=True))

    def choose_preset(self, model: str, preset: str) -> Changes:
        radio = gr.Radio(choices=controls.memory_choices(preset), value=controls.QUANTISED_CHOICE)
        return {self._widgets.memory: radio} | self._codec_numbers(model, preset)

    def _codec_numbers(self, model: str, preset: str) -> Changes:
        values = controls.codec_values(registry.find(model), preset)
        return {
            number: gr.Number(value=value, visible=value is not None)
            for number, value in zip(self._widgets.codec_numbers, values, strict=True)
        }

    def draw_path(self, model: str, path: str | None) -> Changes:
        """A mistake keeps the last good map."""
        ui = self._widgets
        try:
            moves = parse_path(path or "")
        except PathError as error:
            return {ui.path_note: controls.note(str(error), "bad")}
        return {ui.path_note: controls.path_note(moves), ui.map: pose.drawing(moves, registry.find(model))}

    def look_at_picture(self, picture: str | None) -> Changes:
        said = ""
        if picture:
            try:
                said = controls.thumbnail(read_picture(picture))
            except PictureError as error:
                said = controls.note(str(error), "bad")
        return {self._widgets.picture_note: said}

    def foresee(self, run_id: str, model: str, *values: Any) -> Changes:
        """Length and memory in words, and before the first run the gauge."""
        ui = self._widgets
        spec = registry.find(model)
        try:
            asked = _read(PLANNED, values)
            blocks = asked.length(spec)
            plan = asked.plan(spec, self._worker.info)
        except FormError as error:
            # The path has a line of its own.
            said = "" if isinstance(error.__cause__, PathError) else str(error)
            return {ui.length_note: controls.note(said, "bad"), ui.memory_note: ""}
        length = text.length(blocks, spec.video_frames(blocks), spec.fps)
        fate = f"{text.ends_at(plan.kv_bytes, plan.bf16_bytes)} {plan.sentence}"
        changes: Changes = {
            ui.length_note: controls.note(length),
            ui.memory_note: controls.note(fate, "bad" if plan.fits is False else "plain"),
        }
        if not run_id:
            changes[self._stage.gauge] = gauge.planned(spec, asked.codec(spec), asked.policy(), blocks)
        return changes

    def look_for_device(self) -> tuple[Any, Any]:
        """What it is, once that is known; then the timer that asks may rest."""
        info = self._worker.info
        if info is None:
            return gr.skip(), gr.skip()
        return escape(text.device(info.name, info.memory_bytes)), gr.Timer(active=False)

    def stop(self, run_id: str) -> Any:
        watched = self._runs.get(run_id)
        if watched is not None:
            watched.stopping = True
            watched.run.stop()
        return gr.Button(interactive=False)

    def generate(self, model: str, randomize: bool, *values: Any) -> Iterator[Changes]:
        """Runs until the last event, or until the viewer leaves."""
        stage = self._stage
        try:
            watched = self._start(model, randomize, values)
        except (FormError, PictureError) as error:
            yield {stage.status: status.line(str(error), "error")}
            return
        except Exception:
            _log.exception("a run could not be started")
            yield {stage.status: status.line(text.UNEXPECTED, "error")}
            return
        run, live = watched.run, watched.live
        try:
            yield self._all_of(watched) | {self._widgets.seed: watched.seed}
            for event in run.events(_HEARTBEAT_S):
                # A yield is also where it is noticed that the viewer has left.
                if event is None or live.take(event):
                    yield self._all_of(watched)
        except Exception:
            _log.exception("a run could not be shown")
            live.fail(text.UNEXPECTED)
        finally:
            run.stop()
            self._runs.pop(run.id, None)
        yield self._all_of(watched, over=True)

    def _start(self, model: str, randomize: bool, values: tuple[Any, ...]) -> _Watched:
        """Hands the form's job to the worker. Raises FormError or PictureError."""
        asked = _read(ASKED, values)
        if randomize:
            asked = form.reseeded(asked, random.randint(0, MAX_SEED))
        spec = registry.find(model)
        job = asked.job(spec)
        plan = asked.plan(spec, self._worker.info)
        try:
            run = self._worker.submit(job)
        except RuntimeError as error:
            _log.warning("the worker took no job: %s", error)
            raise FormError(text.CLOSED) from error
        settings = form.settings(job, spec, asked.preset or "")
        live = Live(job, spec, settings, plan, RunFolder(self._outputs, run.id), run.id)
        watched = self._runs[run.id] = _Watched(run, live, job.request.seed)
        return watched

    def _all_of(self, watched: _Watched, over: bool = False) -> Changes:
        """Every part of the stage, changed or not.

        Gradio's browser code applies differences to the last dict in place, even while that dict waits to be
        shown: what is left out of a message would be lost from the one before it.
        """
        ui, stage, view = self._widgets, self._stage, watched.live.view
        return {
            stage.run_id: watched.run.id,
            stage.status: view.status,
            stage.player: view.player,
            stage.gauge: view.gauge,
            ui.generate: gr.Button(visible=over),
            ui.stop: gr.Button(visible=not over, interactive=not watched.stopping),
        }


# The widgets behind `Form`, by name and in the order their values arrive.
PLANNED = (
    "path", "memory", "preset", "blocks", "as_path",
    "clusters", "group", "stages", "iterations", "every", "sink", "recent", "window",
)  # fmt: skip
ASKED = ("prompt", "picture", "seed", "mode", *PLANNED)


def _read(names: tuple[str, ...], values: tuple[Any, ...]) -> Form:
    given = dict(zip(names, values, strict=True))
    given["quantised"] = given.pop("memory") == controls.QUANTISED_CHOICE
    return Form(**given)
