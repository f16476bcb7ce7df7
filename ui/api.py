"""API of the page for programs: named endpoints over HTTP, and the tools of an MCP server.

A program may choose a name for itself, by which it finds its runs again and deletes them. A run started by a
program belongs to it: the run is stopped when the program disconnects, and on a shared page also when nobody
reads the answer.
"""

from __future__ import annotations

import inspect
import re
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, fields, replace
from functools import wraps
from inspect import Parameter, signature
from typing import Any

import gradio as gr
from gradio.components.api_component import Api as ApiValue
from gradio.context import LocalContext
from starlette.concurrency import run_in_threadpool

from backends import registry
from backends.base import BackendSpec
from backends.memory_plan import WhenFull
from backends.plain_text import excerpt, read_number
from qvg.config import PRESETS
from ui import text
from ui.form.clips import ClipError
from ui.form.pictures import PictureError
from ui.form.run_spec import parse
from ui.form.values import (
    BF16_NAME,
    CODEC_NUMBERS,
    FIRST_SEED,
    MAX_SIDES,
    POLICY_NUMBERS,
    QUANTIZED,
    Form,
    FormError,
    Memory,
    default_form,
)
from ui.runs import player_view
from ui.runs.history import Past
from ui.runs.manager import HEARTBEAT_S, Record, RunManager
from ui.runs.presenter import View
from ui.server.addresses import address_of

Answer = tuple[list[str] | None, dict[str, Any]]
Answers = AsyncGenerator[Answer, None]
# Numbers in `settings`, named as in the form.
NUMBERS = CODEC_NUMBERS + POLICY_NUMBERS
_SETTINGS: dict[str, Any] = {
    "type": "object",
    "properties": {
        **{name: {"type": "number"} for name in NUMBERS},
        "options": {"type": "object", "properties": {}},
    },
}
# Settings left out of answers: clients take an object with a "path" for a file to fetch, and "form" is
# internal to the page.
_OMITTED = ("path", "form")
_SECRET = re.compile("[!-~]{16,64}")  # names that programs may choose on a public page
_MOST_LISTED = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class RunArguments:
    """Arguments that /generate and /compare share, described in `_ABOUT`."""

    blocks: int = 0
    seed: int = FIRST_SEED
    path: str = ""
    picture: str | None = None
    clip: str | None = None
    changes: str = ""
    mode: str = ""
    budget_mib: int = 0
    when_full: WhenFull = "drop"
    preview: bool = False
    settings: dict[str, Any] | None = None
    visitor: str = ""


_ABOUT = {
    "blocks": "length; 0 is as long as the path, or without one the generator's usual length",
    "seed": "of the noise, 0 or more",
    "path": 'camera moves such as "w-8, right-4", or JSON; empty stands still',
    "picture": "image to start from, for generators that can",
    "clip": "video to go on from, for generators that can",
    "changes": 'lines of "block: prompt", other prompts from a block on',
    "mode": "one of the generator's modes; empty is its first",
    "budget_mib": "MiB the KV cache may hold; 0 is no limit",
    "when_full": 'what happens then, "drop" the oldest frames or "stop"',
    "preview": "decode with the fast, softer decoder",
    "settings": (
        "numbers of codec and cache policy (clusters, group, stages, iterations, every, sink, recent, "
        'window, on_card, attention_bits) and "options", the generator\'s own by name; what is left out is '
        "as usual"
    ),
    "visitor": (
        "a secret name of your own choosing, to find the run again with /runs; without one nobody finds it "
        "on a public page"
    ),
}


def _with_run_arguments(
    endpoint: Callable[..., Answers],
) -> Callable[..., Answers]:
    """Returns an endpoint whose last parameter is replaced by the fields of `RunArguments`.

    Gradio and MCP clients read the signature, the annotations and the docstring of a function.
    """
    declared = signature(endpoint)
    *own, last = declared.parameters.values()
    shared = [
        Parameter(each.name, Parameter.POSITIONAL_OR_KEYWORD, default=each.default, annotation=each.type)
        for each in fields(RunArguments)
    ]
    whole = declared.replace(parameters=[*own, *shared])

    @wraps(endpoint)
    async def spread(*given: Any, **named: Any) -> Answers:
        values = whole.bind(*given, **named).arguments
        arguments = {each.name: values.pop(each.name) for each in shared if each.name in values}
        async with aclosing(endpoint(**values, **{last.name: RunArguments(**arguments)})) as answers:
            async for answer in answers:
                yield answer

    docstring = inspect.getdoc(endpoint) or ""
    about = [f"    {name}: {words}\n" for name, words in _ABOUT.items() if f"    {name}: " not in docstring]
    spread.__doc__ = docstring.replace("\nReturns:", f"{''.join(about)}\nReturns:")
    spread.__annotations__ = {each.name: each.annotation for each in [*own[1:], *shared]} | {
        "return": declared.return_annotation
    }
    vars(spread)["__signature__"] = whole
    return spread


class Api:
    """The endpoints. Every error is a gr.Error with a sentence."""

    def __init__(self, manager: RunManager) -> None:
        self._manager = manager

    def backends(self) -> list[dict[str, Any]]:
        """Lists the video generators: what each takes and makes, and whether its files are here."""
        return [
            {
                "id": spec.id,
                "title": spec.title,
                "summary": spec.summary,
                "ready": entry.missing is None,
                "missing": entry.missing,
                "needs": spec.needs,
                "licence": spec.license,
                "inputs": sorted(spec.inputs),
                "width": spec.width,
                "height": spec.height,
                "fps": spec.fps,
                "latents_per_block": spec.latents_per_block,
                "frames_per_block": spec.frames_per_block,
                "usual_blocks": spec.default_blocks,
                "most_blocks": spec.max_blocks,
                "modes": {mode.id: mode.about for mode in spec.modes},
                "options": {option.name: list(option.values) for option in spec.options},
                "codecs": list(PRESETS),
            }
            for entry in registry.entries()
            for spec in [entry.spec]
        ]

    def vocabulary(self, model: str) -> dict[str, Any]:
        """Tells the words a video generator understands, and prompts that work.

        Args:
            model: id of the generator, as /backends lists it

        Returns:
            "words" by group, empty where any text will do, and "examples"
        """
        spec = registry.find(model)
        return {
            "words": {group: list(words) for group, words in spec.vocabulary},
            "examples": list(spec.examples),
        }

    def runs(self, visitor: str = "", most: int = 100) -> list[dict[str, Any]]:
        """Lists runs and their videos, the newest first, whatever became of them.

        Args:
            visitor: the name that /generate or /compare was given; a page that is not public lists all runs
            most: how many at most

        Returns:
            of each run its "id", "state" (waiting, running or done), "created", "model", "prompt", "seed",
            "frames", "fps", what "failed", and the addresses of its "videos" on this page
        """
        found = self._manager.runs_of(self._named(visitor), max(0, min(most or 0, _MOST_LISTED)))
        return [_listed(past) for past in found]

    def delete(self, run_id: str, visitor: str = "") -> list[dict[str, Any]]:
        """Deletes a run with its videos. One that has not ended has to be stopped first.

        Args:
            run_id: "id" of the run, as /runs lists it
            visitor: as of /runs

        Returns:
            the runs that are left, as /runs lists them
        """
        owner = self._named(visitor)
        record, past = self._manager.find(owner, run_id), self._manager.find_past(owner, run_id)
        try:
            if record is None and past is None:
                raise FormError(text.GONE)
            self._manager.forget(owner, run_id)
        except FormError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return self.runs(visitor)

    def _named(self, visitor: str) -> str:
        """Returns the owner that a program names. Raises gr.Error if it names none."""
        try:
            owner = self._owner(visitor)
            if owner is None:
                raise FormError(text.NO_VISITOR)
        except FormError as error:
            raise gr.Error(str(error), print_exception=False) from error
        return owner

    @_with_run_arguments
    def generate(
        self, request: gr.Request, model: str, prompt: str, codec: str, arguments: RunArguments
    ) -> Answers:
        """Makes one video with its KV cache in one codec.

        Args:
            model: id of the generator, as /backends lists it
            prompt: what there is to see
            codec: how the KV cache is kept, such as BF16 or QVG INT2

        Returns:
            the finished mp4, and how it was made with all that was measured; before that, how far it is
        """
        memory: Memory = "bf16" if codec == BF16_NAME else "quantised"
        return self._make(request, memory, model, prompt, [codec], arguments)

    @_with_run_arguments
    def compare(
        self, request: gr.Request, model: str, prompt: str, codecs: list[str], arguments: RunArguments
    ) -> Answers:
        """Makes one video two to four times from one seed, in step, each with its KV cache in another codec.

        Args:
            model: id of the generator, as /backends lists it
            prompt: what there is to see
            codecs: two to four ways to keep the KV cache; the first is what the others are measured against
            budget_mib: MiB each KV cache may hold; 0 is no limit
            settings: as of /generate; the codec's numbers are those of the first quantised one
            visitor: as of /generate

        Returns:
            an mp4 of every side and one of all side by side, and how they were made with all that was
            measured (KV bytes, PSNR, SSIM, revisit PSNR by side); before that, how far it is
        """
        return self._make(request, "compare", model, prompt, codecs, arguments)

    async def _make(
        self,
        request: gr.Request,
        memory: Memory,
        model: str,
        prompt: str,
        codecs: Sequence[str],
        arguments: RunArguments,
    ) -> Answers:
        """Starts a run and yields its progress until the end, then its files."""
        spec = registry.find(model)
        quantized = next((name for name in codecs if name in QUANTIZED), QUANTIZED[0])
        form = replace(
            default_form(spec, quantized, arguments.mode),
            prompt=prompt,
            memory=memory,
            sides=tuple(codecs),
            blocks=arguments.blocks or spec.default_blocks,
            as_path=not arguments.blocks and bool(arguments.path.strip()),
            seed=arguments.seed,
            path=arguments.path,
            picture=arguments.picture,
            clip=arguments.clip,
            changes=arguments.changes,
            mode=arguments.mode,
            budget=arguments.budget_mib,
            when_full=arguments.when_full,
            preview=arguments.preview,
        )
        try:
            owner = self._owner(arguments.visitor) or self._manager.owner(secrets.token_urlsafe(16))
            record = await run_in_threadpool(
                self._submit, form, spec, arguments.settings, owner, address_of(request)
            )
        except (FormError, PictureError, ClipError) as error:
            raise gr.Error(str(error), print_exception=False) from error
        presenter = record.presenter
        try:
            # A single call has no session; its stream has the event's id.
            with self._manager.watching(record.owner, request.session_hash, LocalContext.event_id.get(None)):
                seen = -1
                while not record.ended:
                    await record.news(seen, HEARTBEAT_S)
                    seen, view = await run_in_threadpool(record.next_view, -1, 0)
                    yield (
                        None,
                        {
                            "state": record.state.written,
                            "said": _status_text(view),
                            "blocks": presenter.blocks,
                        },
                    )
        finally:
            self._manager.stop(record)
        yield await run_in_threadpool(self._answer, record)

    def _owner(self, visitor: str) -> str | None:
        """Returns the owner that a program's name stands for; None without a name. Raises FormError.

        On a public page only the name separates visitors, so it has to be hard to guess.
        """
        if not self._manager.shared:
            return self._manager.owner(visitor)
        if not visitor:
            return None
        if not _SECRET.fullmatch(visitor):
            raise FormError(text.NO_VISITOR)
        return self._manager.owner(visitor)

    def _submit(self, form: Form, spec: BackendSpec, settings: Any, owner: str, address: str) -> Record:
        asker = f"address {address}"
        # Checked before pictures and clips are read, which takes long.
        self._manager.check_room(asker, address)
        run_spec = parse(with_settings(form, spec, settings), spec)
        return self._manager.submit(owner, run_spec, asker, address)

    def _answer(self, record: Record) -> Answer:
        """Returns the files and the results of a run. Raises gr.Error if there is no file."""
        presenter = record.presenter
        if not presenter.blocks or presenter.folder.problem:
            raise gr.Error(presenter.folder.problem or _status_text(presenter.view), print_exception=False)
        past = Past(presenter.folder.path, presenter.settings())
        files = list(past.videos)
        if len(files) > 1:
            files.append(self._manager.export(past, "mp4"))
        status = {
            "state": record.state.written,
            "said": _status_text(presenter.view),
            "camera": past.settings["path"],
        }
        return list(map(str, files)), status | {k: v for k, v in past.settings.items() if k not in _OMITTED}


def _listed(past: Past) -> dict[str, Any]:
    """Returns a run as /runs lists it."""
    settings = {name: past.settings.get(name) for name in ("created", "model", "prompt", "seed")}
    results = {name: past.made.get(name) for name in ("frames", "fps", "failed")}
    videos = [player_view.address(video) for video in past.videos] if past.state == "done" else []
    return {"id": past.id, "state": past.state, **settings, **results, "videos": videos}


def _status_text(view: View) -> str:
    """Returns the text of the status line."""
    return view.status["text"]


def with_settings(form: Form, spec: BackendSpec, settings: Any) -> Form:
    """Returns `form` with a program's numbers and options. Raises FormError for unknown or invalid ones."""
    if settings in (None, "", {}):
        return form
    known = f"{', '.join(NUMBERS)} and options"
    if not isinstance(settings, Mapping) or not set(settings) <= {*NUMBERS, "options"}:
        raise FormError(f"settings is an object with some of {known}.")
    numbers = {
        name: read_number(value) if isinstance(value, str) else value
        for name, value in settings.items()
        if name != "options"
    }
    if not all(isinstance(value, (int, float)) for value in numbers.values()):
        raise FormError(f"settings: {', '.join(NUMBERS)} are numbers.")
    options = settings.get("options") or {}
    offered = {option.name: option.values for option in spec.options}
    for name, value in options.items() if isinstance(options, Mapping) else [("options", options)]:
        if value not in offered.get(name, ()):
            choices = "; ".join(f"{name}: {', '.join(values)}" for name, values in offered.items()) or "none"
            raise FormError(
                f"{spec.title} has no option {str(name)[:40]}={excerpt(value)}; it has {choices}."
            )
    chosen = tuple(options.get(option.name, option.values[0]) for option in spec.options)
    return replace(form, **numbers, options=chosen)


def connect(manager: RunManager) -> None:
    """Adds the endpoints to the page, in the current Gradio context. Their components are invisible."""
    api = Api(manager)
    ids = [spec.id for spec in registry.specs()]

    def model() -> gr.Dropdown:
        return gr.Dropdown(ids, value=ids[0], label="model")

    def named() -> gr.Textbox:
        return gr.Textbox("", label="visitor")

    with gr.Column(visible=False):
        common: list[Any] = [
            gr.Number(0, precision=0, minimum=0, label="blocks"),
            gr.Number(FIRST_SEED, precision=0, minimum=0, label="seed"),
            gr.Textbox("", label="path"),
            gr.File(None, label="picture"),
            gr.File(None, label="clip"),
            gr.Textbox("", label="changes"),
            gr.Textbox("", label="mode"),
            gr.Number(0, precision=0, minimum=0, label="budget_mib"),
            gr.Radio(["drop", "stop"], value="drop", label="when_full"),
            gr.Checkbox(False, label="preview"),
            # MCP clients do not accept the schema of gr.JSON.
            ApiValue({}, _SETTINGS, "settings"),
            named(),
        ]
        files = gr.File(None, file_count="multiple", label="videos")
        results = gr.JSON(label="made")
        codec = gr.Dropdown(list(PRESETS), value=QUANTIZED[0], label="codec")
        codecs = gr.Dropdown(
            list(PRESETS),
            value=[BF16_NAME, QUANTIZED[0]],
            multiselect=True,
            max_choices=MAX_SIDES,
            label="codecs",
        )
        prompt = gr.Textbox("", label="prompt")
        go = gr.Button()
        listed: dict[str, Any] = {"queue": False}
        # These calls wait without a thread, and the worker queues the runs.
        watched: dict[str, Any] = {"concurrency_limit": None}
        go.click(api.backends, None, results, api_name="backends", **listed)
        go.click(api.vocabulary, model(), results, api_name="vocabulary", **listed)
        most = gr.Number(100, precision=0, minimum=0, label="most")
        go.click(api.runs, [named(), most], results, api_name="runs", **listed)
        go.click(api.delete, [gr.Textbox("", label="run_id"), named()], results, api_name="delete", **listed)
        one, several = [model(), prompt, codec, *common], [model(), prompt, codecs, *common]
        go.click(api.generate, one, [files, results], api_name="generate", **watched)
        go.click(api.compare, several, [files, results], api_name="compare", **watched)
