"""Every parser of what comes from outside, given anything: a sentence or a result, and never more."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import av
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import registry
from backends.camera import (
    KEYS,
    CameraMove,
    PathError,
    each_latent,
    follow_drawing,
    follow_trajectory,
    format_moves,
    format_path,
    parse_path,
    parse_trajectory,
    trace_trajectory,
)
from backends.plain_text import read_number
from backends.pocket.vocabulary import parse_prompt
from tests.soak import nasty
from tests.soak.conftest import FULL
from tests.soak.growth import MOST, RUNS, exponent, run_of
from tests.ui.fake_worker import INFO, FakeWorker
from tests.ui.page import widgets
from ui import api, safe_json
from ui.events import camera
from ui.events.form import PLANNED, FormEvents, filled
from ui.form import budget_share
from ui.form.pictures import PictureError
from ui.form.run_spec import parse
from ui.form.values import Form, FormError, default_form
from ui.runs import history, lists_view, mp4, recovery
from ui.runs.run_index import RunIndex

SPECS = registry.specs()
POCKET = registry.find("pocket")
CASES = settings(max_examples=700 if FULL else 40)
SLOWEST_S = 20.0  # of one case; what takes longer hangs
specs = st.sampled_from(SPECS)
_counted = {"cases": 0, "slowest": 0.0}


class Bounded:
    """Counts a case, and says which one took too long."""

    def __enter__(self) -> None:
        self._began = time.monotonic()

    def __exit__(self, *error: object) -> None:
        seconds = time.monotonic() - self._began
        _counted["cases"] += 1
        _counted["slowest"] = max(_counted["slowest"], seconds)
        assert seconds < SLOWEST_S


def sendable(value: Any) -> bytes:
    """As Gradio sends it to a browser."""
    return orjson.dumps(value, default=str)


@given(nasty.path_text)
@CASES
def test_a_path_is_moves_or_a_path_error(text: str):
    with Bounded():
        try:
            moves = parse_path(text)
        except PathError as error:
            sendable(str(error))
            return
        assert parse_path(format_path(moves)) == moves
        assert parse_path(format_moves(moves)) == moves


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "model": st.sampled_from([spec.id for spec in SPECS]) | nasty.anything,
            "points": st.lists(st.lists(nasty.numbers, min_size=2, max_size=2), max_size=5) | nasty.anything,
            "text": nasty.path_text | nasty.anything,
            "path": nasty.path_text | nasty.anything,
            "kind": st.sampled_from(["moves", "trajectory"]) | nasty.anything,
        },
    )
    | nasty.anything
)
@CASES
def test_what_the_map_asks_is_answered(asked: Any):
    for function in (camera.follow, camera.read, camera.write):
        with Bounded():
            answer = function(asked)
            assert isinstance(answer, dict)
            sendable(answer)


_form = st.dictionaries(
    st.sampled_from([field.name for field in fields(Form)]),
    nasty.anything | st.sampled_from([["BF16", "QVG INT2"], "compare", "bf16", "stop", 1, 8, 64]),
    max_size=8,
)


@given(specs, _form)
@CASES
def test_what_a_file_remembers_fills_a_form(spec: Any, values: dict[str, Any]):
    ui, _ = widgets()
    with Bounded():
        form = Form.recalled(safe_json.loads(json.dumps(values)), spec)
        sendable(form.remembered())
        filled(ui, spec, form)
        try:
            run_spec = parse(form, spec)
        except FormError as error:
            sendable(str(error))
        else:
            sendable(run_spec.settings())


OF_NUMBERS = [
    name for name in PLANNED if name not in ("path", "memory", "sides", "when_full", "preset", "as_path")
]


@given(specs, st.tuples(*(nasty.numbers | st.none() for _ in OF_NUMBERS)), nasty.path_text)
@CASES
def test_a_plan_is_told_or_what_is_wrong_with_it(spec: Any, given_numbers: tuple[Any, ...], path: str):
    ui, stage = widgets()
    form = replace(default_form(spec), path=path, **dict(zip(OF_NUMBERS, given_numbers, strict=True)))
    worker = FakeWorker()
    worker.info = INFO
    with Bounded():
        forms = FormEvents(worker, ui, stage)
        told = forms.foresee("", spec.id, *(getattr(form, name) for name in PLANNED))
        sendable(list(told.values()))
        forms.draw_path(spec.id, path)
        forms.choose_budget(given_numbers[0])


@given(specs, st.integers(1, 200), nasty.numbers.filter(lambda n: n == n and abs(n) < 1e18))
@CASES
def test_a_budget_is_bytes_or_too_small(spec: Any, blocks: int, asked: float):
    form = replace(default_form(spec), blocks=min(blocks, spec.max_blocks), budget=asked, as_path=False)
    for when in ("drop", "stop"):
        with Bounded():
            assert budget_share.share_of(spec, min(blocks, spec.max_blocks), 50) > 0
            try:
                sides = replace(form, when_full=when).named_sides(spec)
            except FormError as error:
                sendable(str(error))
            else:
                assert all(side.blocks(int(form.blocks or 0)) >= 1 for side in sides)


@given(specs, nasty.anything | st.dictionaries(st.sampled_from([*api.NUMBERS, "options"]), nasty.anything))
@CASES
def test_settings_of_a_program_are_taken_or_refused(spec: Any, asked: Any):
    with Bounded():
        try:
            parse(api.with_settings(default_form(spec), spec, asked), spec)
        except (FormError, PictureError) as error:
            sendable(str(error))


_wan = registry.find("self_forcing")


@given(nasty.words | st.lists(nasty.words, max_size=4).map("\n".join))
@CASES
def test_prompts_and_their_changes(text: str):
    form = replace(default_form(_wan), prompt=text, changes=text)
    with Bounded():
        try:
            sendable(parse(form, _wan).settings())
        except FormError as error:
            sendable(str(error))


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file = tmp_path_factory.mktemp("video") / "a.mp4"
    data = mp4.encode_segment(np.zeros((4, 32, 32, 3), np.uint8), 8).data
    mp4.join([data], file, 8, {"program": "QVG Studio", "model": "pocket", "form": {"prompt": "a box"}})
    return file.read_bytes()


_dropped = st.fixed_dictionaries(
    {"model": st.just("pocket") | nasty.anything, "form": _form | nasty.anything},
    optional={"walked": nasty.path_text, "steered": nasty.scalars, "reseeds": nasty.anything},
)


@given(_dropped | nasty.anything)
@CASES
def test_a_dropped_json_fills_the_form_or_holds_no_settings(tmp_path_factory: Any, found: Any):
    file = tmp_path_factory.getbasetemp() / "dropped.json"
    file.write_text(json.dumps(found))
    _drop(file)


@given(st.data())
@CASES
def test_a_dropped_video_may_be_damaged_anywhere(tmp_path_factory: Any, video: bytes, data: st.DataObject):
    file = tmp_path_factory.getbasetemp() / "dropped.mp4"
    damaged = bytearray(video)
    for _ in range(data.draw(st.integers(0, 8))):
        damaged[data.draw(st.integers(0, len(video) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(bytes(damaged[: data.draw(st.integers(0, len(video)))]))
    _drop(file)


@given(_dropped | nasty.anything)
@CASES
def test_the_metadata_of_a_dropped_video_is_not_trusted(tmp_path_factory: Any, found: Any):
    file = tmp_path_factory.getbasetemp() / "told.mp4"
    with av.open(str(file), "w", format="mp4") as container:
        container.metadata["comment"] = json.dumps(found)
        stream = container.add_stream("libx264", rate=8)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8))))
        container.mux(stream.encode(None))
    _drop(file)


def _drop(file: Path) -> None:
    ui, _ = widgets()
    with Bounded():
        try:
            settings_of = history.read_settings(file)
            spec, form = history.form_of(settings_of)
        except ValueError as error:
            sendable(str(error))
            return
        filled(ui, spec, form)
        sendable(form.remembered())


_figures = st.fixed_dictionaries(
    {
        "blocks": nasty.scalars, "frames": nasty.scalars, "fps": nasty.scalars, "seconds": nasty.scalars,
        "peak_bytes": nasty.scalars, "failed": nasty.scalars, "sides": st.lists(nasty.anything, max_size=2),
    }
)  # fmt: skip
_run = st.fixed_dictionaries(
    {
        "id": nasty.scalars, "owner": st.just(""), "state": st.sampled_from(["done", "waiting", "running"]),
        "order": nasty.scalars, "created": nasty.scalars, "model": st.just("pocket") | nasty.anything,
        "prompt": nasty.scalars, "form": _form | nasty.anything, "made": _figures | nasty.anything,
        "reseeds": nasty.anything | st.just([[1, 2]]),
    }
)  # fmt: skip


@given(
    _run, st.sampled_from(["psnr", "codec", "ratio", "kv_bytes", "frames", "ms", "kv_parts"]), nasty.anything
)
@CASES
def test_the_file_of_a_run_may_hold_anything(tmp_path_factory: Any, run: Any, name: str, value: Any):
    outputs = tmp_path_factory.getbasetemp() / "outputs"
    folder = outputs / "2026-01-01-000000-000-a"
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(run["made"], dict):
        run["made"]["sides"] = [{**SIDE, name: value}]
    (folder / "run.json").write_text(json.dumps(run))
    with Bounded():
        for past in RunIndex(outputs).newest(4):
            sendable(lists_view.history_of([past], "", False))
            sendable(list(past.view(INFO)))
            try:
                past.run_spec()
            except ValueError as error:
                sendable(str(error))
        for _, held in recovery.take_up(RunIndex(outputs)):
            held.release()


SIDE = {
    "codec": "BF16", "ends_after": None, "drops_from": None, "frames": 8, "latents": [4, 8],
    "latents_seen": 8, "kv_bytes": [1000, 2000], "bf16_bytes": [1000, 2000], "kv_parts": {"values": 2000},
    "scratch_bytes": 0, "host_bytes": 0, "ratio": 1.0, "ms": {"model": 5.0}, "psnr": None, "ssim": None,
    "psnr_by_block": [None, None], "ssim_by_block": [None, None], "psnr_by_span": [None, None],
    "revisit_psnr": None, "revisit_frames": 0,
}  # fmt: skip


CAMERAS = (4, 13, 41, 130, 410, 1_296, 4_096)  # three decades, up to the longest path


def _words_of(text: str) -> None:
    parse_prompt(text).note()


def _path_of(text: str) -> None:
    """As a form and the map ask for it, each anew."""
    parse_path.cache_clear()
    form = replace(default_form(POCKET), path=text, as_path=True)
    with _ShortRefusal():
        form.length(POCKET)
    for function in (camera.read, camera.write):
        sendable(function({"text": text, "path": text, "kind": "moves", "model": "pocket"}))


def _prompts_of(text: str) -> None:
    form = replace(default_form(_wan), prompt=text, changes=text)
    with _ShortRefusal():
        parse(form, _wan)


def _settings_of(text: str) -> None:
    with _ShortRefusal():
        found = safe_json.loads(text)
        with _ShortRefusal():
            api.with_settings(default_form(POCKET), POCKET, found)
        form = Form.recalled(dict.fromkeys(_FIELDS, found), POCKET)
        parse(form, POCKET)


_FIELDS = tuple(field.name for field in fields(Form))


class _ShortRefusal:
    """Lets a refusal pass, if it does not repeat what was refused."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        return isinstance(error, ValueError) and len(str(error)) < 400


@pytest.mark.parametrize("parse", [_words_of, _path_of, _prompts_of, _settings_of, read_number])
def test_time_grows_with_the_length_of_a_text_and_no_faster(parse: Callable[[str], None], tell: Any):
    runs = (
        RUNS
        if parse in (_path_of, _settings_of)
        else [run for run in RUNS if not {*run[0], *run[1]} & {*"[{"}]
    )
    found = {run: exponent(parse, run_of(run)) for run in runs}
    assert {run: steep for run, steep in found.items() if steep > MOST} == {}
    tell(f"exponent of {parse.__name__.strip('_')}", runs=len(runs), steepest=f"{max(found.values()):.2f}")


def test_a_grammar_that_takes_the_cube_of_its_text_is_found():
    overlapping = re.compile(r"\s*([A-Za-z+ ]*?)\s*(?:-\s*(\d+))?\s*\Z")
    assert exponent(overlapping.match, run_of(("w", " ", "!"))) > MOST


def _keys_read_of(moves: list[CameraMove]) -> None:
    text = trace_trajectory(moves)
    assert sum(move.latents for move in follow_trajectory(parse_trajectory(text))) == len(moves)


@pytest.mark.parametrize(
    ("call", "make"),
    [
        (_keys_read_of, lambda n: [CameraMove((key,)) for key in islice(cycle(KEYS), n - 1)]),
        (parse_path, lambda n: format_path(CameraMove((key,)) for key in islice(cycle(KEYS), n))),
        (parse_path, lambda n: format_moves(CameraMove((key,)) for key in islice(cycle(KEYS), n))),
        (follow_drawing, lambda n: [(0.01 * (i % 2), 0.05 * i) for i in range(n)]),
        (follow_drawing, lambda n: [(0.0, 0.0), (0.0, 0.08 * n)]),
        (list, lambda n: each_latent([CameraMove(KEYS, n)])),
    ],
    ids=[
        "cameras",
        "moves",
        "moves as JSON",
        "points of a drawing",
        "length of a drawing",
        "length of a move",
    ],
)
def test_time_grows_with_the_latents_of_a_path_and_no_faster(call: Any, make: Any):
    def anew(given: Any) -> None:
        parse_path.cache_clear()
        call(given)

    assert exponent(anew, make, CAMERAS) <= MOST


def test_time_grows_with_the_comment_of_a_video_and_no_faster(tmp_path_factory: Any, video: bytes):
    def told(length: int) -> Path:
        file = tmp_path_factory.getbasetemp() / f"told-{length}.mp4"
        mp4.join([video], file, 8, {"form": {"prompt": "\\ud800 " * length, "options": [[]] * length}})
        return file

    assert exponent(_drop, told) <= MOST


def test_how_many_were_tried(tell):
    slowest = f"{_counted['slowest']:.2f} s"
    tell("parsers", cases=_counted["cases"], tracebacks=0, hangs=0, slowest=slowest)
