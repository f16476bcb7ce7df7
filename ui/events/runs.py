"""What the widgets do with runs: start them, watch them, go on with them, list them, hand them out."""

from __future__ import annotations

import itertools
import logging
import random
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.concurrency import run_in_threadpool

from backends import registry
from backends.camera import PathError, parse_path
from backends.validation import MAX_SEED
from ui import text
from ui.components.note import NOTHING
from ui.events.form import ASKED, Changes, filled, read
from ui.form import examples
from ui.form.clips import ClipError
from ui.form.pictures import PictureError
from ui.form.run_spec import RunSpec, parse
from ui.form.values import FormError
from ui.runs import export, history, lists_view
from ui.runs.folder import LOW_BYTES, free_bytes
from ui.runs.manager import HEARTBEAT_S, Record, RunManager, RunState
from ui.runs.presenter import RunPresenter, View
from ui.server.addresses import address_of
from ui.widgets import inputs
from ui.widgets.inputs import Inputs
from ui.widgets.outputs import Outputs

_TABS = 256  # whose begun runs wait for `watch`
_STREAMS = 16  # open ones of a visitor to a shared page, more than anyone has tabs
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Stream:
    """An answer to a tab that goes on while its visitor has runs under way."""

    tab: str | None
    owner: str
    over: bool = False  # a newer one has taken its place
    silent: bool = False  # the tab shows a run of the past


class RunEvents:
    """The behaviour of the stage, for all visitors."""

    def __init__(self, manager: RunManager, widgets: Inputs, stage: Outputs) -> None:
        self._manager = manager
        self._widgets = widgets
        self._stage = stage
        self._streams: list[_Stream] = []  # open ones, the newest last
        self._begun: OrderedDict[str | None, None] = (
            OrderedDict()
        )  # tabs that `watch` is about to be called for
        self._numbers = itertools.count(1)

    async def arrive(self, request: gr.Request, visitor: str) -> AsyncIterator[Changes]:
        """The page has been opened: what runs, or else what there was."""
        name = self._manager.visitor(visitor, request.session_hash)
        await run_in_threadpool(self._manager.open)
        lists = await run_in_threadpool(self._lists, self._manager.owner(name), "")
        async for changes in self._watch(request, name, {self._stage.visitor: name, **lists}, comes=True):
            yield changes

    async def generate(
        self, request: gr.Request, visitor: str, model: str, randomize: bool, *values: Any
    ) -> AsyncIterator[Changes]:
        """Runs until the last event, or until the viewer leaves; the run goes on without one."""
        asked, changes = read(ASKED, values), {}
        if randomize:
            asked = replace(asked, seed=random.randint(0, MAX_SEED))
            changes = {self._widgets.seed: asked.seed}
        owner = self._owner(request, visitor)
        spec = registry.find(model)
        first = await run_in_threadpool(self._submit, request, owner, lambda: parse(asked, spec), changes)
        if not self._has_begun(request):
            yield first
            return
        async for changes in self._watch(request, visitor, first):
            yield changes

    def example(self, request: gr.Request, event: gr.EventData, visitor: str) -> Changes:
        """One of the runs worth a click: into the form, and off it goes. For `watch` to follow."""
        example = examples.named(str(event.name))
        if example is None:
            return self._nothing
        spec, form = example.form()
        return self._submit(request, self._owner(request, visitor), lambda: parse(form, spec))

    async def watch(self, request: gr.Request, visitor: str) -> AsyncIterator[Changes]:
        """The run that this tab has just begun, if it has.

        Apart from what fills the form: Gradio builds each output of a listener anew for every message.
        """
        yield self._nothing
        if self._has_begun(request):
            async for changes in self._watch(request, visitor, self._nothing):
                yield changes

    def stop(self, request: gr.Request, visitor: str, run_id: str) -> Any:
        record = self._manager.find(self._owner(request, visitor), run_id)
        if record is not None:
            self._manager.stop(record)
        return gr.Button(interactive=False)

    def again(self, request: gr.Request, visitor: str, run_id: str) -> Changes:
        """The same once more, noise and all. For `watch` to follow."""
        return self._submit_again(request, self._owner(request, visitor), run_id)

    async def extend(
        self, request: gr.Request, visitor: str, run_id: str, more: float | None, path: str | None
    ) -> AsyncIterator[Changes]:
        """Makes `more` blocks along `path`."""

        def extend(record: Record) -> None:
            if not more or more < 1:
                raise FormError(text.NO_BLOCKS)
            steered = "camera" in record.run_spec.spec.inputs
            self._manager.extend(record, int(more), parse_path(path or "") if steered else ())

        async for changes in self._extend(request, visitor, run_id, extend):
            yield changes

    async def retake(self, request: gr.Request, visitor: str, run_id: str) -> AsyncIterator[Changes]:
        """The last block once more, from other noise."""

        def retake(record: Record) -> None:
            if not record.can_take_back:
                raise FormError(text.ONLY_AGAIN)
            self._manager.retake(record, random.randint(0, MAX_SEED))

        async for changes in self._extend(request, visitor, run_id, retake):
            yield changes

    def undo(self, request: gr.Request, visitor: str, run_id: str) -> Changes:
        return self._change(
            request, visitor, run_id, lambda record: record.can_take_back, RunPresenter.take_back
        )

    def redo(self, request: gr.Request, visitor: str, run_id: str) -> Changes:
        return self._change(
            request, visitor, run_id, lambda record: record.can_put_back, RunPresenter.put_back
        )

    def queue(self, request: gr.Request, event: gr.EventData, visitor: str) -> Changes:
        """A button in the list of what waits."""
        owner = self._owner(request, visitor)
        record = self._manager.find(owner, str(event.id))
        if record is not None:
            if event.action == "remove":
                self._manager.stop(record)
            else:
                self._manager.move(record, -1 if event.action == "up" else 1)
        return {self._stage.queue: lists_view.queue_of(self._manager.waiting(owner))}

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
                past = self._manager.find_past(owner, picked)
                gone = {self._widgets.problem: inputs.note(text.GONE, "bad")}
                yield gone if past is None else self._recall(past.settings)
            case "delete":
                try:
                    self._manager.forget(owner, picked)
                except FormError as error:
                    gr.Warning(str(error))
                yield self._lists(owner, run_id, len(shown.get("runs", ())))
            case "more":
                yield self._lists(owner, run_id, len(shown.get("runs", ())) + lists_view.PAGE)
            case _:
                yield self._nothing

    def drop(self, file: str | None) -> Changes:
        """A video or a JSON of ours came back: the form as it was."""
        ui = self._widgets
        if not file:
            return {ui.problem: NOTHING}
        try:
            return self._recall(history.read_settings(Path(file)))
        except ValueError as error:
            return {ui.problem: inputs.note(str(error), "bad")}

    def export_video(self, request: gr.Request, visitor: str, run_id: str) -> Iterator[Changes]:
        yield from self._export(request, visitor, run_id, "mp4")

    def export_gif(self, request: gr.Request, visitor: str, run_id: str) -> Iterator[Changes]:
        yield from self._export(request, visitor, run_id, "gif")

    def export_webp(self, request: gr.Request, visitor: str, run_id: str) -> Iterator[Changes]:
        yield from self._export(request, visitor, run_id, "webp")

    def export_json(self, request: gr.Request, visitor: str, run_id: str) -> Iterator[Changes]:
        yield from self._export(request, visitor, run_id, "json")

    def _owner(self, request: gr.Request, visitor: str) -> str:
        """Returns whose runs a request is about. A browser brings back the name that `arrive` gave it, a
        program may bring anything."""
        return self._manager.owner(visitor, request.session_hash)

    def _recall(self, settings: Mapping[str, Any]) -> Changes:
        ui = self._widgets
        try:
            return filled(ui, *history.form_of(settings)) | {ui.problem: NOTHING}
        except ValueError as error:
            return {ui.problem: inputs.note(str(error), "bad")}

    def _submit(
        self,
        request: gr.Request,
        owner: str,
        made: Callable[[], RunSpec],
        changes: Changes | None = None,
    ) -> Changes:
        """Hands in what `made` returns. Then come `changes`, or the form as the run has it."""
        ui = self._widgets
        try:
            address = address_of(request)
            self._manager.check_room(owner, address)
            run_spec = made()
            self._manager.submit(owner, run_spec, address=address)
        except (FormError, PictureError, ClipError) as error:
            return {ui.problem: inputs.note(str(error), "bad")}
        except Exception:
            _log.exception("a run could not be started")
            return {ui.problem: inputs.note(text.UNEXPECTED, "bad")}
        self._begun[request.session_hash] = None
        while len(self._begun) > _TABS:
            self._begun.popitem(last=False)
        if changes is None:
            changes = filled(ui, run_spec.spec, run_spec.asked)
        free = free_bytes(self._manager.outputs)
        said = text.nearly_full(free) if free is not None and free < LOW_BYTES else ""
        return changes | {ui.problem: inputs.note(said)}

    @property
    def _nothing(self) -> Changes:
        """No change. An empty dict is an error to Gradio, and a generator that yields nothing clears all."""
        return {self._widgets.problem: gr.skip()}

    def _has_begun(self, request: gr.Request) -> bool:
        begun = request.session_hash in self._begun
        self._begun.pop(request.session_hash, None)
        return begun

    async def _watch(
        self, request: gr.Request, visitor: str, first: Changes, comes: bool = False
    ) -> AsyncIterator[Changes]:
        """`first`, then the visitor's runs, one after another, until none is left or another stream of the
        tab takes over. `comes`: the page has only just been opened.

        Waits without a thread. All else may take a lock that is held while a video is written: in a thread.
        """
        name = self._manager.visitor(visitor, request.session_hash)
        owner, shown = self._manager.owner(name), None
        tab = request.session_hash
        with self._open_stream(tab, owner) as stream, self._manager.watching(owner, tab):
            yield first
            while (record := await run_in_threadpool(self._manager.current, owner)) is not None:
                seen, view = -1, None
                while not record.ended:
                    await record.news(seen, HEARTBEAT_S)
                    if stream.over or stream.silent:
                        seen = record.version
                        # Gradio sends the last message of a generator once more when it has returned: over
                        # what is shown by now.
                        yield self._nothing
                        if stream.over:
                            return
                        continue
                    if view is None or record.version != seen:
                        seen, view = await run_in_threadpool(record.next_view, -1, 0)
                    # Its end is shown with what else has changed by then.
                    if record.state < RunState.SAVING:
                        # A yield is also where it is noticed that the viewer has left.
                        yield await run_in_threadpool(self._all_of, record, view, name)
                if not stream.silent:
                    yield await run_in_threadpool(self._end_of, record)
                shown = record
            # What has ended unseen is shown to whoever comes, and to a tab that was here all the time whether
            # or not another tab has shown it.
            last = await run_in_threadpool(self._manager.last, owner)
            if last is None or last is shown or stream.over or stream.silent:
                return
            if shown is not None or not comes or not last.end_seen:
                yield await run_in_threadpool(self._end_of, last, False)

    @contextmanager
    def _open_stream(self, tab: str | None, owner: str) -> Iterator[_Stream]:
        """Lists a stream while it is open, and ends what it takes the place of: the tab's last one, as two
        would show two runs in turns, and its visitor's oldest where there are too many; never one of another
        visitor."""
        stream = _Stream(tab, owner)
        for other in self._streams:
            if other.tab == tab and other.owner == owner:
                other.over = True
        self._streams.append(stream)
        if self._manager.shared:
            of_owner = [each for each in self._streams if each.owner == owner and not each.over]
            for old in of_owner[:-_STREAMS]:
                old.over = True
        try:
            yield stream
        finally:
            self._streams.remove(stream)

    def _look_back(self, tab: str | None, owner: str) -> None:
        """Keeps what runs off the screen of a tab that shows a run of the past."""
        for stream in list(self._streams):
            if stream.tab == tab and stream.owner == owner:
                stream.silent = True

    def _end_of(self, record: Record, watched: bool = True) -> Changes:
        """`watched`: the page has played its blocks; one that has not begins with the finished files."""
        record.end_seen = True
        _, view = record.next_view(-1, 0)
        if not watched:
            view = view.finished()
        return self._all_of(record, view) | self._lists(record.owner, record.id)

    def _all_of(self, record: Record, view: View, visitor: str = "") -> Changes:
        """Every part of the stage, changed or not. `visitor` is for the player to steer with.

        Gradio's browser code applies differences to the last dict in place, even while that dict waits to be
        shown: what is left out of a message would be lost from the one before it.
        """
        ui, stage, over = self._widgets, self._stage, record.ended
        presenter, spec = record.presenter, record.run_spec.spec
        several = len(record.run_spec.sides) > 1
        return {
            stage.run_id: record.id,
            **stage.showing(view, steerable=not over and "camera" in spec.inputs, visitor=visitor),
            stage.queue: lists_view.queue_of(self._manager.waiting(record.owner)),
            stage.actions: gr.Row(visible=over),
            stage.export: gr.Row(visible=over and several),
            stage.more: gr.Number(visible=True),
            stage.extend: gr.Button(interactive=presenter.blocks > 0, visible=True),
            stage.undo: gr.Button(interactive=record.can_take_back, visible=True),
            stage.redo: gr.Button(interactive=record.can_put_back, visible=True),
            stage.retake: gr.Button(interactive=record.can_take_back, visible=spec.resumable),
            ui.generate: gr.Button(text.GENERATE if over else text.QUEUE_UP),
            ui.stop: gr.Button(visible=not over, interactive=not record.stopping),
        }

    def _lists(self, owner: str, shown: str, count: int = 0) -> Changes:
        count = max(count, lists_view.PAGE)
        found = self._manager.past(owner, count + 1)
        listed = lists_view.history_of(found[:count], shown, len(found) > count, self._manager.kept_for)
        return {
            self._stage.history: listed,
            self._stage.queue: lists_view.queue_of(self._manager.waiting(owner)),
        }

    def _submit_again(self, request: gr.Request, owner: str, run_id: str) -> Changes:
        record, past = self._manager.find(owner, run_id), self._manager.find_past(owner, run_id)
        if past is not None:
            return self._submit(request, owner, past.run_spec)
        if record is not None:
            return self._submit(request, owner, lambda: record.run_spec)
        return {self._widgets.problem: inputs.note(text.GONE, "bad")}

    async def _extend(
        self, request: gr.Request, visitor: str, run_id: str, extend: Callable[[Record], None]
    ) -> AsyncIterator[Changes]:
        """Calls `extend` with a run of the visitor's and follows it, or says why that is impossible."""
        ui, record = self._widgets, self._manager.find(self._owner(request, visitor), run_id)
        try:
            if record is None:
                raise FormError(text.ONLY_AGAIN)
            await run_in_threadpool(extend, record)
        except (FormError, PathError) as error:
            yield {ui.problem: inputs.note(str(error), "bad")}
            return
        async for changes in self._watch(request, visitor, {ui.problem: NOTHING}):
            yield changes

    def _change(
        self,
        request: gr.Request,
        visitor: str,
        run_id: str,
        possible: Callable[[Record], bool],
        do: Callable[[RunPresenter], None],
    ) -> Changes:
        owner = self._owner(request, visitor)
        record = self._manager.find(owner, run_id)
        if record is None or not possible(record):
            return {self._widgets.problem: inputs.note(text.ONLY_AGAIN, "bad")}
        self._manager.change(record, do)
        return self._end_of(record) | {self._widgets.problem: NOTHING}

    def _show(self, request: gr.Request, owner: str, run_id: str) -> Iterator[Changes]:
        """A run of the past on the screen."""
        stage, record = self._stage, self._manager.find(owner, run_id)
        if record is not None:
            self._look_back(request.session_hash, owner)
            yield self._end_of(record, watched=False)
            return
        past = self._manager.find_past(owner, run_id)
        if past is None:
            yield {self._widgets.problem: inputs.note(text.GONE, "bad")} | self._lists(owner, "")
            return
        self._look_back(request.session_hash, owner)
        view = past.view(self._manager.worker.info)
        yield {
            stage.run_id: past.id,
            **stage.showing(view, steerable=False),
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

    def _export(self, request: gr.Request, visitor: str, run_id: str, kind: export.Kind) -> Iterator[Changes]:
        """A file for the browser to keep."""
        ui, stage, owner = self._widgets, self._stage, self._owner(request, visitor)
        past = self._manager.find_past(owner, run_id)
        if past is None:
            yield {ui.problem: inputs.note(text.NOT_ON_DISK, "bad")}
            return
        yield {ui.problem: inputs.note(text.WRITING)}
        try:
            target = self._manager.export(past, kind)
        except (OSError, ValueError) as error:
            _log.exception("an export failed")
            yield {ui.problem: inputs.note(text.not_exported(str(error)), "bad")}
            return
        yield {ui.problem: NOTHING, stage.saved: lists_view.file_to_save(target, next(self._numbers))}
