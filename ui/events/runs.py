"""Gradio event handlers for runs: start, watch, extend, list, export."""

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

_TABS = 256  # whose new runs wait for `watch`
_STREAMS = 16  # open at once for a visitor to a shared page; more than anyone has tabs
_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Stream:
    """A response to a tab that stays open while its visitor has active runs."""

    tab: str | None
    owner: str
    over: bool = False  # a newer one has replaced it
    silent: bool = False  # the tab shows a past run


class RunEvents:
    """Event handlers of the outputs, shared by all visitors."""

    def __init__(self, manager: RunManager, widgets: Inputs, outputs: Outputs) -> None:
        self._manager = manager
        self._widgets = widgets
        self._outputs = outputs
        self._streams: list[_Stream] = []  # open ones, the newest last
        self._begun: OrderedDict[str | None, None] = OrderedDict()  # tabs that are about to call `watch`
        self._numbers = itertools.count(1)

    async def arrive(self, request: gr.Request, visitor: str) -> AsyncIterator[Changes]:
        """Shows the active run when a page is opened, or else the last one."""
        name = self._manager.visitor(visitor, request.session_hash)
        await run_in_threadpool(self._manager.open)
        lists = await run_in_threadpool(self._lists, self._manager.owner(name), "")
        async for changes in self._watch(
            request, name, {self._outputs.visitor: name, **lists}, arriving=True
        ):
            yield changes

    async def generate(
        self, request: gr.Request, visitor: str, model: str, randomize: bool, *values: Any
    ) -> AsyncIterator[Changes]:
        """Starts a run and shows it until its end or until the viewer leaves; the run then continues."""
        form, changes = read(ASKED, values), {}
        if randomize:
            form = replace(form, seed=random.randint(0, MAX_SEED))
            changes = {self._widgets.seed: form.seed}
        owner = self._owner(request, visitor)
        spec = registry.find(model)
        first = await run_in_threadpool(self._submit, request, owner, lambda: parse(form, spec), changes)
        if not self._has_begun(request):
            yield first
            return
        async for changes in self._watch(request, visitor, first):
            yield changes

    def example(self, request: gr.Request, event: gr.EventData, visitor: str) -> Changes:
        """Fills the form with an example and starts it; `watch` then shows it."""
        example = examples.named(str(event.name))
        if example is None:
            return self._nothing
        spec, form = example.form()
        return self._submit(request, self._owner(request, visitor), lambda: parse(form, spec))

    async def watch(self, request: gr.Request, visitor: str) -> AsyncIterator[Changes]:
        """Shows the run that this tab has just started, if any.

        Separate from the handlers that fill the form: Gradio rebuilds each output of a listener for every
        message.
        """
        yield self._nothing
        if self._has_begun(request):
            async for changes in self._watch(request, visitor, self._nothing):
                yield changes

    def stop(self, request: gr.Request, visitor: str, run_id: str) -> Any:
        """Stops a run."""
        record = self._manager.find(self._owner(request, visitor), run_id)
        if record is not None:
            self._manager.stop(record)
        return gr.Button(interactive=False)

    def again(self, request: gr.Request, visitor: str, run_id: str) -> Changes:
        """Repeats a run with the same noise; `watch` then shows it."""
        return self._submit_again(request, self._owner(request, visitor), run_id)

    async def extend(
        self, request: gr.Request, visitor: str, run_id: str, more: float | None, path: str | None
    ) -> AsyncIterator[Changes]:
        """Extends a run by `more` blocks along `path` and shows it."""

        def extend(record: Record) -> None:
            if not more or more < 1:
                raise FormError(text.NO_BLOCKS)
            steered = "camera" in record.run_spec.spec.inputs
            self._manager.extend(record, int(more), parse_path(path or "") if steered else ())

        async for changes in self._extend(request, visitor, run_id, extend):
            yield changes

    async def retake(self, request: gr.Request, visitor: str, run_id: str) -> AsyncIterator[Changes]:
        """Generates the last block again, from other noise, and shows it."""

        def retake(record: Record) -> None:
            if not record.can_take_back:
                raise FormError(text.ONLY_AGAIN)
            self._manager.retake(record, random.randint(0, MAX_SEED))

        async for changes in self._extend(request, visitor, run_id, retake):
            yield changes

    def undo(self, request: gr.Request, visitor: str, run_id: str) -> Changes:
        """Takes the last block back."""
        return self._change(
            request, visitor, run_id, lambda record: record.can_take_back, RunPresenter.take_back
        )

    def redo(self, request: gr.Request, visitor: str, run_id: str) -> Changes:
        """Puts back the block that was taken back last."""
        return self._change(
            request, visitor, run_id, lambda record: record.can_put_back, RunPresenter.put_back
        )

    def queue(self, request: gr.Request, event: gr.EventData, visitor: str) -> Changes:
        """Handles a button in the queue: remove, up or down."""
        owner = self._owner(request, visitor)
        record = self._manager.find(owner, str(event.id))
        if record is not None:
            if event.action == "remove":
                self._manager.stop(record)
            else:
                self._manager.move(record, -1 if event.action == "up" else 1)
        return {self._outputs.queue: lists_view.queue_of(self._manager.waiting(owner))}

    def history(
        self, request: gr.Request, event: gr.EventData, visitor: str, run_id: str, shown: dict[str, Any]
    ) -> Iterator[Changes]:
        """Handles a button in the history; `watch` then shows a repeated run."""
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
        """Fills the form from a dropped video or JSON of this program."""
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
        """Returns the owner of the runs that a request is about. A browser returns the name that `arrive`
        gave it; a program may send anything."""
        return self._manager.owner(visitor, request.session_hash)

    def _recall(self, settings: Mapping[str, Any]) -> Changes:
        """Fills the form from stored settings, or says why that is impossible."""
        ui = self._widgets
        try:
            return filled(ui, *history.form_of(settings)) | {ui.problem: NOTHING}
        except ValueError as error:
            return {ui.problem: inputs.note(str(error), "bad")}

    def _submit(
        self,
        request: gr.Request,
        owner: str,
        make: Callable[[], RunSpec],
        changes: Changes | None = None,
    ) -> Changes:
        """Submits the run that `make` returns. Returns `changes`, or those that fill the form from the run,
        with a message."""
        ui = self._widgets
        try:
            address = address_of(request)
            self._manager.check_room(owner, address)
            run_spec = make()
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
            changes = filled(ui, run_spec.spec, run_spec.form)
        free = free_bytes(self._manager.outputs)
        warning = text.nearly_full(free) if free is not None and free < LOW_BYTES else ""
        return changes | {ui.problem: inputs.note(warning)}

    @property
    def _nothing(self) -> Changes:
        """Returns no change. To Gradio an empty dict is an error, and a generator that yields nothing clears
        all outputs."""
        return {self._widgets.problem: gr.skip()}

    def _has_begun(self, request: gr.Request) -> bool:
        """Returns, once, whether the tab has just started a run."""
        begun = request.session_hash in self._begun
        self._begun.pop(request.session_hash, None)
        return begun

    async def _watch(
        self, request: gr.Request, visitor: str, first: Changes, arriving: bool = False
    ) -> AsyncIterator[Changes]:
        """Yields `first`, then views of the visitor's runs, one after another, until none is left or another
        stream of the tab takes over. `arriving`: the page has just been opened.

        Waits without a thread. Everything else may need a lock that is locked while a video is written, so it
        runs in a thread.
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
                        # Gradio sends a generator's last message again after it returns. An empty one does
                        # not overwrite what the tab shows by then.
                        yield self._nothing
                        if stream.over:
                            return
                        continue
                    if view is None or record.version != seen:
                        seen, view = await run_in_threadpool(record.next_view, -1, 0)
                    # The end is shown by `_end_of`, together with the lists.
                    if record.state < RunState.SAVING:
                        # Gradio closes this generator at a yield once the viewer has left.
                        yield await run_in_threadpool(self._all_of, record, view, name)
                if not stream.silent:
                    yield await run_in_threadpool(self._end_of, record)
                shown = record
            # A run that ended unwatched is shown to the next visitor, and always to a tab that stayed open.
            last = await run_in_threadpool(self._manager.last, owner)
            if last is None or last is shown or stream.over or stream.silent:
                return
            if shown is not None or not arriving or not last.end_seen:
                yield await run_in_threadpool(self._end_of, last, False)

    @contextmanager
    def _open_stream(self, tab: str | None, owner: str) -> Iterator[_Stream]:
        """Registers a stream while it is open, and ends the ones it replaces: the tab's previous one, because
        two would alternate between two runs, and its visitor's oldest if there are too many; never another
        visitor's."""
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

    def _silence(self, tab: str | None, owner: str) -> None:
        """Silences the streams of a tab that shows a past run, so that active runs do not replace it."""
        for stream in list(self._streams):
            if stream.tab == tab and stream.owner == owner:
                stream.silent = True

    def _end_of(self, record: Record, watched: bool = True) -> Changes:
        """Returns the changes that show an ended run. `watched`: the page has played its blocks; otherwise it
        starts with the finished files."""
        record.end_seen = True
        _, view = record.next_view(-1, 0)
        if not watched:
            view = view.finished()
        return self._all_of(record, view) | self._lists(record.owner, record.id)

    def _all_of(self, record: Record, view: View, visitor: str = "") -> Changes:
        """Returns every output of a run, changed or not. `visitor` lets the player steer.

        Gradio's browser code applies differences to the last dict in place, even while that dict waits to be
        shown: an output left out of one message would lose its change from the message before.
        """
        ui, outputs, over = self._widgets, self._outputs, record.ended
        presenter, spec = record.presenter, record.run_spec.spec
        several = len(record.run_spec.sides) > 1
        return {
            outputs.run_id: record.id,
            **outputs.showing(view, steerable=not over and "camera" in spec.inputs, visitor=visitor),
            outputs.queue: lists_view.queue_of(self._manager.waiting(record.owner)),
            outputs.actions: gr.Row(visible=over),
            outputs.export: gr.Row(visible=over and several),
            outputs.more: gr.Number(visible=True),
            outputs.extend: gr.Button(interactive=presenter.blocks > 0, visible=True),
            outputs.undo: gr.Button(interactive=record.can_take_back, visible=True),
            outputs.redo: gr.Button(interactive=record.can_put_back, visible=True),
            outputs.retake: gr.Button(interactive=record.can_take_back, visible=spec.resumable),
            ui.generate: gr.Button(text.GENERATE if over else text.QUEUE_UP),
            ui.stop: gr.Button(visible=not over, interactive=not record.stopping),
        }

    def _lists(self, owner: str, shown: str, count: int = 0) -> Changes:
        """Returns the changes that show queue and history, with at least `count` past runs."""
        count = max(count, lists_view.PAGE)
        found = self._manager.past(owner, count + 1)
        listed = lists_view.history_of(found[:count], shown, len(found) > count, self._manager.kept_for)
        return {
            self._outputs.history: listed,
            self._outputs.queue: lists_view.queue_of(self._manager.waiting(owner)),
        }

    def _submit_again(self, request: gr.Request, owner: str, run_id: str) -> Changes:
        """Submits a run of `owner` once more."""
        record, past = self._manager.find(owner, run_id), self._manager.find_past(owner, run_id)
        if past is not None:
            return self._submit(request, owner, past.run_spec)
        if record is not None:
            return self._submit(request, owner, lambda: record.run_spec)
        return {self._widgets.problem: inputs.note(text.GONE, "bad")}

    async def _extend(
        self, request: gr.Request, visitor: str, run_id: str, extend: Callable[[Record], None]
    ) -> AsyncIterator[Changes]:
        """Calls `extend` with a run of the visitor's and shows it, or says why that is impossible."""
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
        """Applies `do` to a run if that is `possible`, and shows the result."""
        owner = self._owner(request, visitor)
        record = self._manager.find(owner, run_id)
        if record is None or not possible(record):
            return {self._widgets.problem: inputs.note(text.ONLY_AGAIN, "bad")}
        self._manager.change(record, do)
        return self._end_of(record) | {self._widgets.problem: NOTHING}

    def _show(self, request: gr.Request, owner: str, run_id: str) -> Iterator[Changes]:
        """Shows a past run."""
        outputs, record = self._outputs, self._manager.find(owner, run_id)
        if record is not None:
            self._silence(request.session_hash, owner)
            yield self._end_of(record, watched=False)
            return
        past = self._manager.find_past(owner, run_id)
        if past is None:
            yield {self._widgets.problem: inputs.note(text.GONE, "bad")} | self._lists(owner, "")
            return
        self._silence(request.session_hash, owner)
        view = past.view(self._manager.worker.info)
        yield {
            outputs.run_id: past.id,
            **outputs.showing(view, steerable=False),
            outputs.actions: gr.Row(visible=True),
            outputs.export: gr.Row(visible=len(past.videos) > 1),
            # Its blocks are not in memory: it can only be repeated.
            outputs.more: gr.Number(visible=False),
            **{
                button: gr.Button(visible=False)
                for button in (outputs.extend, outputs.undo, outputs.redo, outputs.retake)
            },
            **self._lists(owner, run_id),
        }

    def _export(self, request: gr.Request, visitor: str, run_id: str, kind: export.Kind) -> Iterator[Changes]:
        """Writes an export and makes the browser download it."""
        ui, outputs, owner = self._widgets, self._outputs, self._owner(request, visitor)
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
        yield {ui.problem: NOTHING, outputs.saved: lists_view.file_to_save(target, next(self._numbers))}
