"""What the widgets do with runs: start them, watch them, go on with them, list them, hand them out."""

from __future__ import annotations

import itertools
import logging
import random
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from backends import registry
from backends.camera import PathError, parse_path
from backends.check import MAX_SEED
from ui import controls, examples, export, history, lists, text
from ui.clips import ClipError
from ui.commission import Commission
from ui.controls import Controls
from ui.desk import HEARTBEAT_S, Desk, Record
from ui.form import FormError
from ui.forms import ASKED, Changes, filled, read
from ui.live import Live, View
from ui.pictures import PictureError
from ui.stage import Stage

_TABS = 256  # that are told apart
_log = logging.getLogger(__name__)


class Runs:
    """The behaviour of the stage, for all visitors."""

    def __init__(self, desk: Desk, widgets: Controls, stage: Stage) -> None:
        self._desk = desk
        self._widgets = widgets
        self._stage = stage
        # Only the newest watcher of a tab goes on: two would show two runs in turns.
        self._watchers: OrderedDict[str | None, int] = OrderedDict()
        self._begun: set[str | None] = set()  # tabs that `watch` is about to be called for
        self._numbers = itertools.count(1)

    def arrive(self, request: gr.Request, visitor: str) -> Iterator[Changes]:
        """The page has been opened: what runs, or else what there was."""
        owner = self._owner(request, visitor)
        self._desk.open()
        name = self._desk.visitor(visitor, request.session_hash)
        first = {self._stage.visitor: name, **self._lists(owner, "")}
        yield from self._watch(request, owner, first, comes=True)

    def generate(
        self, request: gr.Request, visitor: str, model: str, randomize: bool, *values: Any
    ) -> Iterator[Changes]:
        """Runs until the last event, or until the viewer leaves; the run goes on without one."""
        asked, changes = read(ASKED, values), {}
        if randomize:
            asked = replace(asked, seed=random.randint(0, MAX_SEED))
            changes = {self._widgets.seed: asked.seed}
        owner = self._owner(request, visitor)
        spec = registry.find(model)
        changes = self._submit(request, owner, lambda: asked.commission(spec), changes)
        yield from self._watch(request, owner, changes) if self._has_begun(request) else (changes,)

    def example(self, request: gr.Request, event: gr.EventData, visitor: str) -> Changes:
        """One of the runs worth a click: into the form, and off it goes. For `watch` to follow."""
        example = examples.named(str(event.name))
        if example is None:
            return self._nothing
        spec, form = example.form()
        return self._submit(request, self._owner(request, visitor), lambda: form.commission(spec))

    def watch(self, request: gr.Request, visitor: str) -> Iterator[Changes]:
        """The run that this tab has just begun, if it has.

        Apart from what fills the form: Gradio builds each output of a listener anew for every message.
        """
        yield self._nothing
        if self._has_begun(request):
            yield from self._watch(request, self._owner(request, visitor), self._nothing)

    def stop(self, request: gr.Request, visitor: str, run_id: str) -> Any:
        record = self._desk.find(self._owner(request, visitor), run_id)
        if record is not None and not record.ended:
            self._desk.stop(record)
        return gr.Button(interactive=False)

    def steer(self, asked: dict[str, Any]) -> bool:
        """From the player: {"run", "keys"}, keys held from now on. Whether there is something to steer."""
        if not isinstance(asked, dict):
            return False
        run_id = str(asked.get("run", "")).rpartition(".")[0]
        record = self._desk.any(run_id)
        keys = asked.get("keys")
        if record is None or record.ended or not isinstance(keys, list):
            return False
        try:
            record.run.steer(tuple(map(str, keys)))
        except ValueError:
            return False
        return True

    def again(self, request: gr.Request, visitor: str, run_id: str) -> Changes:
        """The same once more, noise and all. For `watch` to follow."""
        return self._submit_again(request, self._owner(request, visitor), run_id)

    def extend(
        self, request: gr.Request, visitor: str, run_id: str, more: float | None, path: str | None
    ) -> Iterator[Changes]:
        yield from self._go_on(request, visitor, run_id, int(more or -1), path)

    def retake(self, request: gr.Request, visitor: str, run_id: str) -> Iterator[Changes]:
        """The last block once more, from other noise."""
        owner = self._owner(request, visitor)
        record = self._desk.find(owner, run_id)
        if record is None or not record.live.can_take_back:
            yield {self._widgets.problem: controls.note(text.ONLY_AGAIN, "bad")}
            return
        yield from self._go_on(request, visitor, run_id, 0, None)

    def undo(self, request: gr.Request, visitor: str, run_id: str) -> Changes:
        return self._change(request, visitor, run_id, lambda live: live.can_take_back, Live.take_back)

    def redo(self, request: gr.Request, visitor: str, run_id: str) -> Changes:
        return self._change(request, visitor, run_id, lambda live: live.can_put_back, Live.put_back)

    def queue(self, request: gr.Request, event: gr.EventData, visitor: str) -> Changes:
        """A button in the list of what waits."""
        owner = self._owner(request, visitor)
        record = self._desk.find(owner, str(event.id))
        if record is not None:
            if event.action == "remove":
                self._desk.stop(record)
            else:
                self._desk.move(record, -1 if event.action == "up" else 1)
        return {self._stage.queue: lists.queue_of(self._desk.waiting(owner))}

    def history(
        self, request: gr.Request, event: gr.EventData, visitor: str, run_id: str, shown: dict[str, Any]
    ) -> Iterator[Changes]:
        """A button in the list of what there was. For `watch` to follow."""
        owner, picked = self._owner(request, visitor), str(event.id)
        match event.action:
            case "again":
                yield self._submit_again(request, owner, picked)
            case "show":
                yield from self._show(request, owner, picked)
            case "recall":
                past = self._past(owner, picked)
                gone = {self._widgets.problem: controls.note(text.GONE, "bad")}
                yield gone if past is None else self._recall(past.settings)
            case "delete":
                try:
                    self._desk.forget(owner, picked)
                except FormError as error:
                    gr.Warning(str(error))
                yield self._lists(owner, run_id, len(shown.get("runs", ())))
            case "more":
                yield self._lists(owner, run_id, len(shown.get("runs", ())) + lists.PAGE)
            case _:
                yield self._nothing

    def drop(self, file: str | None) -> Changes:
        """A video or a JSON of ours came back: the form as it was."""
        ui = self._widgets
        if not file:
            return {ui.problem: ""}
        try:
            return self._recall(history.read_settings(Path(file)))
        except ValueError as error:
            return {ui.problem: controls.note(str(error), "bad")}

    def export_video(self, request: gr.Request, visitor: str, run_id: str) -> Iterator[Changes]:
        yield from self._export(request, visitor, run_id, "mp4")

    def export_gif(self, request: gr.Request, visitor: str, run_id: str) -> Iterator[Changes]:
        yield from self._export(request, visitor, run_id, "gif")

    def export_json(self, request: gr.Request, visitor: str, run_id: str) -> Iterator[Changes]:
        yield from self._export(request, visitor, run_id, "json")

    def _owner(self, request: gr.Request, visitor: str) -> str:
        """Returns whose runs a request is about. A browser brings back the name that `arrive` gave it, a
        program may bring anything."""
        return self._desk.owner(visitor, request.session_hash)

    def _recall(self, settings: Mapping[str, Any]) -> Changes:
        ui = self._widgets
        try:
            return filled(ui, *history.form_of(settings)) | {ui.problem: ""}
        except ValueError as error:
            return {ui.problem: controls.note(str(error), "bad")}

    def _submit(
        self,
        request: gr.Request,
        owner: str,
        made: Callable[[], Commission],
        changes: Changes | None = None,
    ) -> Changes:
        """Hands in what `made` returns. Then come `changes`, or the form as the run has it."""
        ui = self._widgets
        try:
            commission = made()
            self._desk.submit(owner, commission)
        except (FormError, PictureError, ClipError) as error:
            return {ui.problem: controls.note(str(error), "bad")}
        except Exception:
            _log.exception("a run could not be started")
            return {ui.problem: controls.note(text.UNEXPECTED, "bad")}
        self._begun.add(request.session_hash)
        if changes is None:
            changes = filled(ui, commission.spec, commission.asked)
        return changes | {ui.problem: ""}

    @property
    def _nothing(self) -> Changes:
        """No change. An empty dict is an error to Gradio, and a generator that yields nothing clears all."""
        return {self._widgets.problem: gr.skip()}

    def _has_begun(self, request: gr.Request) -> bool:
        begun = request.session_hash in self._begun
        self._begun.discard(request.session_hash)
        return begun

    def _watch(
        self, request: gr.Request, owner: str, first: Changes, comes: bool = False
    ) -> Iterator[Changes]:
        """`first`, then the visitor's runs, one after another, until none is left or the tab shows something
        else. `comes`: the page has only just been opened."""
        mine, shown = self._take_over(request), None
        yield first
        while (record := self._desk.current(owner)) is not None:
            seen = -1
            with record.watched():
                while not record.ended:
                    seen, view = record.next_view(seen, HEARTBEAT_S)
                    if self._watchers.get(request.session_hash) != mine:
                        # Gradio sends the last message of a generator once more when it has returned: over
                        # what is shown by now.
                        yield self._nothing
                        return
                    # Its end is shown with what else has changed by then.
                    if not record.live.ended:
                        # A yield is also where it is noticed that the viewer has left.
                        yield self._all_of(record, view)
                yield self._end_of(record)
                shown = record
        # What has ended unseen is shown to whoever comes, and to a tab that was here all the time whether or
        # not another tab has shown it.
        last = self._desk.last(owner)
        if last is None or last is shown or self._watchers.get(request.session_hash) != mine:
            return
        if shown is not None or not comes or not last.told:
            yield self._end_of(last, watched=False)

    def _end_of(self, record: Record, watched: bool = True) -> Changes:
        """`watched`: the page has played its blocks; one that has not begins with the finished files."""
        record.told = True
        _, view = record.next_view(-1, 0)
        if not watched:
            view = view.finished()
        return self._all_of(record, view) | self._lists(record.owner, record.id)

    def _take_over(self, request: gr.Request) -> int:
        tab = request.session_hash
        number = self._watchers[tab] = next(self._numbers)
        self._watchers.move_to_end(tab)
        while len(self._watchers) > _TABS:
            self._watchers.popitem(last=False)
        return number

    def _all_of(self, record: Record, view: View) -> Changes:
        """Every part of the stage, changed or not.

        Gradio's browser code applies differences to the last dict in place, even while that dict waits to be
        shown: what is left out of a message would be lost from the one before it.
        """
        ui, stage, over = self._widgets, self._stage, record.ended
        live, spec = record.live, record.commission.spec
        several = len(record.commission.sides) > 1
        changes = {
            stage.run_id: record.id,
            stage.status: view.status,
            stage.player: view.player | {"steerable": not over and "camera" in spec.inputs},
            stage.compare: view.compare,
            stage.queue: lists.queue_of(self._desk.waiting(record.owner)),
            stage.actions: gr.Row(visible=over),
            stage.export: gr.Row(visible=over and several),
            stage.more: gr.Number(visible=True),
            stage.extend: gr.Button(interactive=live.blocks > 0, visible=True),
            stage.undo: gr.Button(interactive=live.can_take_back, visible=True),
            stage.redo: gr.Button(interactive=live.can_put_back, visible=True),
            stage.retake: gr.Button(interactive=live.can_take_back, visible=spec.resumable),
            ui.generate: gr.Button(text.GENERATE if over else text.QUEUE_UP),
            ui.stop: gr.Button(visible=not over, interactive=not record.stopping),
        }
        return changes if view.gauge is None else changes | {stage.gauge: view.gauge}

    def _lists(self, owner: str, shown: str, count: int = 0) -> Changes:
        count = max(count, lists.PAGE)
        found = self._desk.past(owner, count + 1)
        listed = lists.history_of(found[:count], shown, len(found) > count)
        return {self._stage.history: listed, self._stage.queue: lists.queue_of(self._desk.waiting(owner))}

    def _past(self, owner: str, run_id: str) -> history.Past | None:
        return next((past for past in self._desk.past(owner, history.ALL) if past.id == run_id), None)

    def _submit_again(self, request: gr.Request, owner: str, run_id: str) -> Changes:
        record, past = self._desk.find(owner, run_id), self._past(owner, run_id)
        if record is None and past is None:
            return {self._widgets.problem: controls.note(text.GONE, "bad")}
        return self._submit(request, owner, lambda: past.commission() if past else record.commission)

    def _go_on(
        self, request: gr.Request, visitor: str, run_id: str, more: int, path: str | None
    ) -> Iterator[Changes]:
        """`more` blocks along `path`; none is the last block from other noise."""
        ui, owner = self._widgets, self._owner(request, visitor)
        record = self._desk.find(owner, run_id)
        try:
            if record is None:
                raise FormError(text.ONLY_AGAIN)
            if more < 0:
                raise FormError(text.NO_BLOCKS)
            if more == 0:
                self._desk.retake(record, random.randint(0, MAX_SEED))
            else:
                steered = "camera" in record.commission.spec.inputs
                self._desk.go_on(record, more, parse_path(path or "") if steered else ())
        except (FormError, PathError) as error:
            yield {ui.problem: controls.note(str(error), "bad")}
            return
        yield from self._watch(request, owner, {ui.problem: ""})

    def _change(
        self,
        request: gr.Request,
        visitor: str,
        run_id: str,
        possible: Callable[[Live], bool],
        do: Callable[[Live], None],
    ) -> Changes:
        owner = self._owner(request, visitor)
        record = self._desk.find(owner, run_id)
        if record is None or not possible(record.live):
            return {self._widgets.problem: controls.note(text.ONLY_AGAIN, "bad")}
        self._desk.change(record, do)
        return self._end_of(record) | {self._widgets.problem: ""}

    def _show(self, request: gr.Request, owner: str, run_id: str) -> Iterator[Changes]:
        """A run of the past on the screen."""
        stage, record = self._stage, self._desk.find(owner, run_id)
        if record is not None:
            self._take_over(request)
            yield self._end_of(record, watched=False)
            return
        past = self._past(owner, run_id)
        if past is None:
            yield {self._widgets.problem: controls.note(text.GONE, "bad")} | self._lists(owner, "")
            return
        self._take_over(request)
        view = past.view(self._desk.worker.info)
        changes = {
            stage.run_id: past.id,
            stage.status: view.status,
            stage.player: view.player | {"steerable": False},
            stage.compare: view.compare,
            stage.actions: gr.Row(visible=True),
            stage.export: gr.Row(visible=len(past.videos) > 1),
            # Its blocks are not in memory: it can only be made again.
            stage.more: gr.Number(visible=False),
            **{
                button: gr.Button(visible=False)
                for button in (stage.extend, stage.undo, stage.redo, stage.retake)
            },
            **self._lists(owner, run_id),
        }
        yield changes if view.gauge is None else changes | {stage.gauge: view.gauge}

    def _export(self, request: gr.Request, visitor: str, run_id: str, kind: export.Kind) -> Iterator[Changes]:
        """A file for the browser to keep."""
        ui, stage, owner = self._widgets, self._stage, self._owner(request, visitor)
        past = self._past(owner, run_id)
        if past is None:
            yield {ui.problem: controls.note(text.NOT_ON_DISK, "bad")}
            return
        yield {ui.problem: controls.note(text.WRITING)}
        try:
            target = export.write(past, kind)
        except (OSError, ValueError) as error:
            _log.exception("an export failed")
            yield {ui.problem: controls.note(text.not_exported(str(error)), "bad")}
            return
        yield {ui.problem: "", stage.saved: lists.file_to_save(target, next(self._numbers))}
