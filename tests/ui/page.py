"""The page without a browser: its widgets, what they do, and what the last events left on the screen."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import gradio as gr

from backends import registry
from tests.ui.fake_worker import FakeWorker, counter
from ui.components.note import NOTHING
from ui.events import camera
from ui.events.form import ASKED, OPTIONS, FormEvents
from ui.events.runs import RunEvents
from ui.events.steering import steering
from ui.form.run_spec import parse
from ui.form.values import default_form
from ui.runs import mp4, panels
from ui.runs.manager import Record, RunManager
from ui.widgets import inputs
from ui.widgets.inputs import Inputs
from ui.widgets.outputs import Outputs, build_outputs

POCKET = registry.find("pocket")


@cache
def widgets() -> tuple[Inputs, Outputs]:
    """What a page has, made once: widgets know nothing of runs."""
    with gr.Blocks():
        form = inputs.build(registry.entries(), camera.ANSWERS)
        first = panels.values(panels.before(parse(default_form(POCKET), POCKET)))
        here = build_outputs(first, steering(RunManager(FakeWorker(), Path("outputs"))), gr.BrowserState(""))
    return form, here


@cache
def _loop() -> asyncio.AbstractEventLoop:
    """An event loop in a thread of its own, as the page has: browser tests leave one in the main thread."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


def steps(events: AsyncIterator[Any]) -> Iterator[Any]:
    """What an asynchronous listener sends, in the caller's thread. Closing it is a viewer who leaves."""

    async def following() -> Any:
        return await anext(events, None)

    async def close() -> None:
        await events.aclose()

    try:
        while (changes := asyncio.run_coroutine_threadsafe(following(), _loop()).result()) is not None:
            yield changes
    finally:
        asyncio.run_coroutine_threadsafe(close(), _loop()).result()


class Listeners:
    """`ui.events.runs.RunEvents` for tests: its asynchronous listeners are iterators here."""

    def __init__(self, runs: RunEvents) -> None:
        self._runs = runs

    def __getattr__(self, name: str) -> Any:
        listener = getattr(self._runs, name)
        if not inspect.isasyncgenfunction(listener):
            return listener
        return lambda *values: steps(listener(*values))


class Page:
    """One visitor's tab. `manager` is shared by the tabs of one program."""

    def __init__(self, manager: RunManager, visitor: str = "a visitor") -> None:
        self.visitor, self.manager = visitor, manager
        self.request: Any = SimpleNamespace(session_hash=f"tab-{id(self)}", client=None)
        self.ui, self.stage = widgets()
        self.runs: Any = Listeners(RunEvents(manager, self.ui, self.stage))
        self.steer = steering(manager)
        self.forms = FormEvents(manager.worker, self.ui, self.stage)
        self.shown: dict[Any, Any] = {}
        self.statuses: list[str] = []

    def values(self, names: tuple[str, ...] = ASKED, **changes: Any) -> list[Any]:
        asked = replace(default_form(POCKET), prompt="instant", seed=7, path="", blocks=8)
        asked = replace(asked, **changes)
        own = dict(zip(OPTIONS, [*(asked.options or ()), *[None] * len(OPTIONS)], strict=False))
        return [own[name] if name in own else getattr(asked, name) for name in names]

    def start(self, model: str = "pocket", randomize: bool = False, **changes: Any) -> Iterator[Any]:
        return self.runs.generate(self.request, self.visitor, model, randomize, *self.values(**changes))

    def see(self, changes: dict[Any, Any]) -> None:
        self.shown.update({part: new for part, new in changes.items() if new != gr.skip()})
        status = changes.get(self.stage.shown["status"])
        if status is not None:
            self.statuses.append(status["text"])

    def watch(self, events: Iterator[Any]) -> None:
        for changes in events:
            self.see(changes)

    def run(self, **changes: Any) -> None:
        self.watch(self.start(**changes))

    def press(self, listener: Any, **data: Any) -> Any:
        """A button in a list."""
        event = SimpleNamespace(**data)
        if listener == self.runs.queue:
            return self.see(listener(self.request, event, self.visitor))
        if listener == self.runs.example:
            self.see(listener(self.request, event, self.visitor))
        else:
            shown = self.shown.get(self.stage.history, {})
            self.watch(listener(self.request, event, self.visitor, self.run_id, shown))
        return self.watch(self.runs.watch(self.request, self.visitor))

    def again(self) -> None:
        self.see(self.runs.again(self.request, self.visitor, self.run_id))
        self.watch(self.runs.watch(self.request, self.visitor))

    @property
    def run_id(self) -> str:
        return self.shown.get(self.stage.run_id, "")

    @property
    def record(self) -> Record:
        record = self.manager.find(self.manager.owner(self.visitor, self.request.session_hash), self.run_id)
        assert record is not None
        return record

    @property
    def player(self) -> dict[str, Any]:
        return self.shown[self.stage.shown["player"]]

    @property
    def track(self) -> dict[str, Any]:
        (track,) = self.player["tracks"]
        return track

    @property
    def status(self) -> dict[str, Any]:
        return self.shown[self.stage.shown["status"]]

    @property
    def problem(self) -> str:
        return self.shown.get(self.ui.problem, NOTHING)["said"]

    @property
    def history(self) -> list[dict[str, Any]]:
        return self.shown[self.stage.history]["runs"]

    def final(self, side: int = 0) -> Path:
        return file_of(self.player["tracks"][side]["final"])


def file_of(address: str) -> Path:
    return Path(unquote(address.removeprefix("/gradio_api/file=").partition("?")[0]))


def numbers(file: Path) -> list[int]:
    """The number painted into each frame."""
    return [counter(frame) for frame in mp4.decode(file)]
