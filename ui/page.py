"""The page: layout of the components, and the event that calls each handler."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from inspect import signature
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
from gradio.exceptions import InvalidPathError
from gradio.utils import colab_check, is_hosted_notebook
from starlette.middleware import Middleware

from backends import registry
from backends.media import decoding
from ui import api, text
from ui.components import (
    brand,
    chips,
    device,
    machine_report,
    theme_toggle,
)
from ui.components import examples as example_cards
from ui.components import models as model_list
from ui.components.base import script, styles
from ui.events import camera, machine
from ui.events.form import ASKED, PLANNED, FormEvents, widgets_of
from ui.events.models import ModelEvents
from ui.events.runs import RunEvents
from ui.events.steering import steering
from ui.form import examples, values
from ui.form.run_spec import parse
from ui.runs import downloads, panels
from ui.runs.manager import RUNS_PER_VISITOR, RunManager, WorkerLike
from ui.runs.retention import LIMITS, Limits
from ui.server import environment, guard, http_errors, served_files
from ui.server.event_streams import CountedStreams, EventStreams
from ui.server.guard import Guard, Policy
from ui.server.login_throttle import LoginThrottle
from ui.server.served_files import ServedFiles
from ui.server.sessions import OpenStreams, Sessions
from ui.theme import theme
from ui.widgets import inputs
from ui.widgets.inputs import Inputs
from ui.widgets.outputs import Outputs, build_outputs

CSS = (Path(__file__).parent / "theme.css").read_text(encoding="utf-8") + styles()
_UPLOADS_HOURS = 24  # at most, for uploads and files made for one answer
# Inside a frame of another site a browser may deny storage, on which Gradio's scripts fail: this script
# replaces it by one in memory. The session is then the visitor's name.
_STORAGE = f"<script>{script(['storage'])}</script>"
_AT_ONCE = 100  # concurrent calls of one listener
# Of all listeners, including streams of all visitors with active runs and of programs. Streams wait without a
# thread.
_AT_ONCE_IN_ALL = 500
_QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
# By default Gradio drops a click that comes before the previous one of its kind has been answered.
_EVERY: dict[str, Any] = {**_QUIET, "trigger_mode": "multiple"}
# The worker queues the runs.
_RUNNING: dict[str, Any] = {**_EVERY, "concurrency_limit": None}
# Queued, so that calls do not occupy threads: no more files are decoded at once anyway.
_DECODING: dict[str, Any] = {**_QUIET, "concurrency_limit": decoding.AT_ONCE, "concurrency_id": "decoding"}


# Parameters of `gr.Blocks.launch` that may be given by position, without `self`.
_POSITIONAL = tuple(
    name
    for name, parameter in signature(gr.Blocks.launch).parameters.items()
    if parameter.kind is parameter.POSITIONAL_OR_KEYWORD
)[1:]


class Studio(gr.Blocks):
    """The page with the launch settings it needs, for a script, a notebook or a Space."""

    def __init__(self, manager: RunManager) -> None:
        super().__init__(
            title=text.TITLE,
            analytics_enabled=False,
            fill_width=True,
            delete_cache=(3600, _UPLOADS_HOURS * 3600),
        )
        self._manager = manager

    @property
    def outputs(self) -> Path:
        """Returns the folder of the videos."""
        return self._manager.outputs

    def launch(self, *args: Any, allowed_hosts: Sequence[str] = (), **kwargs: Any) -> Any:
        """Calls `gr.Blocks.launch`, with this page's theme, and the outputs folder as the only one it serves.

        Other web sites are denied access: see `ui.server.guard`. `allowed_hosts`, with those of the
        environment variable QVG_STUDIO_ALLOW_HOST, are names under which a proxy serves the page. Raises
        ValueError for a login beside an MCP server, which would not check it, and for settings that are not
        addresses; OSError if the page cannot be opened.
        """
        settings = {**self._defaults(), **_named(args), **kwargs}
        mcp = settings.get("mcp_server") or os.environ.get("GRADIO_MCP_SERVER", "").lower() == "true"
        if mcp and (settings.get("auth") or settings.get("auth_dependency")):
            raise ValueError(text.MCP_IS_OPEN)
        hosted = bool(os.environ.get("SPACE_ID")) or colab_check() or is_hosted_notebook()
        shared = os.environ.get("SPACE_ID") or self.share_url or _shares(settings.get("share"))
        # Set before the first visitor is served.
        self._manager.shared = bool(shared)
        if self._manager.shared:
            hours = self._manager.limits.hours or _UPLOADS_HOURS
            self.delete_cache = (3600, round(min(hours, _UPLOADS_HOURS) * 3600))
        settings["server_name"] = environment.server_name(settings.get("server_name"))
        settings["root_path"] = environment.root_path(settings.get("root_path"))
        named = os.environ.get("QVG_STUDIO_ALLOW_HOST", "").replace(",", " ").split()
        served_as = guard.policy(
            settings["server_name"], settings["root_path"], [*allowed_hosts, *named], hosted
        )
        settings["app_kwargs"] = self._guarded(settings["app_kwargs"] or {}, served_as)
        try:
            return super().launch(**settings)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # Gradio sends a request to itself to see whether it has started.
            self.close(verbose=False)
            raise OSError(f"it does not answer there ({error})") from error

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *args: Any, **kwargs: Any) -> Any:
        """Calls `gr.Blocks.preprocess_data`. Raises gr.Error if it fails, and for files of runs."""
        try:
            if any(served_files.is_of(self._manager.outputs, each) for each in inputs):
                raise InvalidPathError("a file of the outputs folder was named as an input")
            return await super().preprocess_data(block_fn, inputs, *args, **kwargs)
        except (gr.Error, *http_errors.OF_INPUT) as error:
            raise http_errors.of_input(error) from None

    def _defaults(self) -> dict[str, Any]:
        """Returns the launch settings of this page."""
        return {
            "theme": theme(),
            "css": CSS,
            "head": _STORAGE,
            "allowed_paths": [str(self._manager.outputs)],
            "run_history": False,
            "footer_links": ["api", "settings"],
            "ssr_mode": False,
            "max_file_size": decoding.MOST_BYTES,
            # Gradio's limit of concurrent calls, with a thread or without.
            "max_threads": _AT_ONCE_IN_ALL,
            # Off, because it shows every visitor how often each function was called.
            "enable_monitoring": False,
            "app_kwargs": None,
        }

    def _guarded(self, given: dict[str, Any], served_as: Policy) -> dict[str, Any]:
        """Returns arguments of the web application: `given`, error handlers, middleware and the guard."""
        inner = given.get("lifespan")

        @asynccontextmanager
        async def lifespan(application: Any) -> AsyncIterator[Any]:
            # Outside Gradio's own middleware, which encloses any that its arguments name.
            application.state_holder = Sessions(self)
            inside = LoginThrottle(OpenStreams(application.middleware_stack, application.state_holder))
            application.middleware_stack = Guard(inside, served_as, lambda: self.share_url)
            async with inner(application) if inner else nullcontext() as state:
                yield state

        handlers = {**http_errors.handlers(), **given.get("exception_handlers", {})}
        streams = EventStreams()
        self._manager.is_read = streams.is_open
        ours = [
            Middleware(ServedFiles, outputs=self._manager.outputs),
            Middleware(CountedStreams, streams=streams),
        ]
        middleware = [*ours, *given.get("middleware", ())]
        return {**given, "exception_handlers": handlers, "lifespan": lifespan, "middleware": middleware}


def _named(args: tuple[Any, ...]) -> dict[str, Any]:
    """Returns positional arguments of `launch` by name."""
    if len(args) > len(_POSITIONAL):
        raise TypeError(f"launch() takes {len(_POSITIONAL)} positional arguments, not {len(args)}")
    return dict(zip(_POSITIONAL, args, strict=False))


def _shares(share: bool | None) -> bool:
    """Returns whether Gradio opens a public address when `launch(share=share)` is called."""
    if share is not None:
        return share
    return colab_check() or is_hosted_notebook() or os.environ.get("GRADIO_SHARE", "").lower() == "true"


def build(
    worker: WorkerLike, outputs: Path, runs_per_visitor: int = RUNS_PER_VISITOR, limits: Limits = LIMITS
) -> Studio:
    """Returns the page for `worker`, with videos in `outputs`. Creates no file and starts no process."""
    # Unlike `Path.resolve`, `realpath` does not fail on circular links.
    outputs = Path(os.path.realpath(outputs))
    entries = registry.entries()
    spec = entries[0].spec
    manager = RunManager(worker, outputs, runs_per_visitor, limits)
    first = panels.values(panels.before(parse(values.default_form(spec), spec)))
    with Studio(manager) as page:
        # First, so that the endpoints get their names: some listeners of the page are functions of the same
        # names.
        api.connect(manager)
        with gr.Row(elem_classes="top"):
            brand.component()
            on_device = device.component()
            about = machine_report.component(machine.view(()))
            theme_toggle.component()
        example_row = example_cards.component([(each.name, each.summary) for each in examples.EXAMPLES])
        with gr.Row(elem_classes="columns", equal_height=False):
            with gr.Column(elem_classes="panel", min_width=320, scale=4):
                widgets = inputs.build(entries, camera.ANSWERS)
                with widgets.manage:
                    cards = model_list.component({"busy": False, "locked": False, "models": []})
            with gr.Column(elem_classes="outputs", min_width=320, scale=8):
                visitor = gr.BrowserState("", storage_key="qvg-studio", secret="visitor")
                screen = build_outputs(first, steering(manager), visitor)
        runs, forms = RunEvents(manager, widgets, screen), FormEvents(worker, widgets, screen)
        _connect_form(widgets, screen, forms)
        _connect_runs(widgets, screen, example_row, runs)

        models = downloads.Models(lambda: manager.shared)
        while_loading = gr.Timer(1.0, active=False)
        events = ModelEvents(models, widgets, cards, while_loading)
        listed = [cards, while_loading, widgets.model, widgets.about]
        cards.pick(events.pick, widgets.model, listed, **_EVERY)
        while_loading.tick(events.look, widgets.model, listed, **_QUIET)
        widgets.manage.expand(events.look, widgets.model, listed, **_QUIET)

        report = machine.Machine(worker, outputs, lambda: manager.shared)
        about.pick(report.look, None, about, **_QUIET)

        timer = gr.Timer(1.0)
        timer.tick(forms.look_for_device, None, [on_device, timer], **_QUIET)
        planned = [screen.run_id, widgets.model, *widgets_of(widgets, PLANNED)]
        on_device.change(forms.foresee, planned, _foreseen(widgets, screen), **_QUIET)
        # Without the gauge: it was built with these values, and may show a run by now.
        page.load(forms.foresee_in_words, planned, _foreseen(widgets, screen)[:-1], **_QUIET)
        page.load(runs.arrive, [screen.visitor], [*_followed(widgets, screen), screen.visitor], **_RUNNING)
    page.queue(max_size=128, default_concurrency_limit=_AT_ONCE)
    # Disables statistics that this page does not show: Gradio recomputes them from the last 10,000 events
    # after each one.
    page._queue.ANALYTICS_MAX_EVENTS, page._queue.ANAYLTICS_CACHE_FREQUENCY = 1, sys.maxsize
    return page


def _foreseen(widgets: Inputs, screen: Outputs) -> list[Any]:
    """Returns the outputs of `FormEvents.foresee`."""
    return [
        widgets.length_note,
        widgets.memory_note,
        widgets.budget_note,
        widgets.budgets,
        screen.shown["gauge"],
    ]


def _all(widgets: Inputs, screen: Outputs) -> list[Any]:
    """Returns the outputs of handlers that fill the form: all widgets of a run, and those of the form."""
    form_parts = [
        getattr(widgets, name) for name in widgets.__slots__ if name not in ("path_note", "options")
    ]
    return [*screen.all, *form_parts, *widgets.options]


def _followed(widgets: Inputs, screen: Outputs) -> list[Any]:
    """Returns the outputs that change while a run is watched, and no others: for each message Gradio rebuilds
    every output, also the ones left out, and takes that time from the generator."""
    return [
        *screen.shown.values(), screen.actions, screen.more, screen.extend, screen.undo, screen.redo,
        screen.retake, screen.export, screen.queue, screen.history,
        screen.run_id, widgets.generate, widgets.stop, widgets.problem,
    ]  # fmt: skip


def _connect_form(widgets: Inputs, screen: Outputs, forms: FormEvents) -> None:
    chips.connect(widgets.examples, widgets.prompt, "replace")
    chips.connect(widgets.vocabulary, widgets.prompt, "append")
    widgets.model.input(
        forms.choose_model,
        [widgets.model, widgets.preset],
        [
            widgets.about, widgets.examples, widgets.vocabulary_fold, widgets.vocabulary, widgets.picture,
            widgets.clip, widgets.changes, widgets.preview, *widgets.options,
            widgets.camera, widgets.map, widgets.blocks, widgets.as_path, widgets.mode, widgets.budget,
            *widgets.codec_numbers, *widgets.policy_numbers,
        ],
        **_QUIET,
    )  # fmt: skip
    widgets.mode.input(
        forms.choose_mode,
        [widgets.model, widgets.preset, widgets.mode],
        [widgets.mode, *widgets.policy_numbers],
        **_QUIET,
    )
    widgets.preset.input(
        forms.choose_preset,
        [widgets.model, widgets.preset],
        [widgets.memory, widgets.advanced, *widgets.codec_numbers],
        **_QUIET,
    )
    widgets.memory.change(forms.choose_memory, widgets.memory, [widgets.sides, widgets.preset], **_QUIET)
    widgets.budget.change(forms.choose_budget, widgets.budget, widgets.when_full, **_QUIET)
    planned = widgets_of(widgets, PLANNED)
    widgets.budgets.pick(forms.set_budget, [widgets.model, *planned], widgets.budget, **_EVERY)
    widgets.path.change(
        forms.draw_path,
        [widgets.model, widgets.path],
        [widgets.path_note, widgets.path],
        trigger_mode="always_last",
        **_QUIET,
    )
    widgets.clip.change(forms.look_at_clip, [widgets.model, widgets.clip], widgets.clip_note, **_DECODING)
    widgets.picture.change(forms.look_at_picture, widgets.picture, widgets.picture_note, **_DECODING)
    # For a listener that fell behind, Gradio fires its event again, with all listeners: two of one event
    # would trigger each other forever. Behind a step in the browser, this one is fired alone.
    changed = gr.on(
        [widget.change for widget in [widgets.model, *planned]],
        None,
        js="() => {}",
        trigger_mode="multiple",
        **_QUIET,
    )
    changed.then(
        forms.foresee,
        [screen.run_id, widgets.model, *planned],
        _foreseen(widgets, screen),
        trigger_mode="always_last",
        **_QUIET,
    )


def _connect_runs(widgets: Inputs, screen: Outputs, example_row: gr.HTML, runs: RunEvents) -> None:
    everything, followed = _all(widgets, screen), _followed(widgets, screen)
    viewed = [screen.visitor, screen.run_id]
    gr.on(
        [widgets.generate.click, widgets.prompt.submit],
        runs.generate,
        [screen.visitor, widgets.model, widgets.randomize, *widgets_of(widgets, ASKED)],
        [*followed, widgets.seed],
        **_RUNNING,
    )
    for started in (
        example_row.pick(runs.example, [screen.visitor], everything, **_RUNNING),
        screen.again.click(runs.again, viewed, everything, **_RUNNING),
        screen.history.pick(runs.history, [*viewed, screen.history], everything, **_RUNNING),
    ):
        started.then(runs.watch, [screen.visitor], followed, **_RUNNING)
    screen.extend.click(runs.extend, [*viewed, screen.more, widgets.path], followed, **_RUNNING)
    screen.retake.click(runs.retake, viewed, followed, **_RUNNING)
    screen.undo.click(runs.undo, viewed, everything, **_QUIET)
    screen.redo.click(runs.redo, viewed, everything, **_QUIET)
    screen.queue.pick(runs.queue, screen.visitor, screen.queue, **_EVERY)
    widgets.dropped.upload(runs.drop, widgets.dropped, everything, **_QUIET)
    for button, export in (
        (screen.export_video, runs.export_video),
        (screen.export_gif, runs.export_gif),
        (screen.export_webp, runs.export_webp),
        (screen.export_json, runs.export_json),
    ):
        button.click(export, viewed, [widgets.problem, screen.saved], **_QUIET)
    # Never Gradio's `cancels`: the run must end by itself, to deliver its video.
    widgets.stop.click(runs.stop, viewed, widgets.stop, queue=False, **_QUIET)
