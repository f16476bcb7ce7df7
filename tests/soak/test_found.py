"""What broke once, each by itself: the larger tests would find it again, but not say so as plainly."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from backends import registry
from backends.base import NonFiniteLatents
from backends.camera import PathError, parse_path
from backends.wan.decode import Decoding
from tests.soak.managers import QUICK, frames_of
from tests.soak.test_parsers import SIDE
from tests.ui.fake_worker import INFO, FakeWorker
from tests.ui.page import Page
from ui import text
from ui.events import camera
from ui.form.run_spec import parse
from ui.form.values import Form, FormError, default_form
from ui.runs import export, lists_view, mp4
from ui.runs.manager import RunManager
from ui.runs.run_index import RunIndex

POCKET, WAN = registry.find("pocket"), registry.find("self_forcing")


@pytest.fixture
def page(tmp_path: Path) -> Page:
    return Page(RunManager(FakeWorker(block_seconds=0.0), tmp_path))


@pytest.mark.parametrize("field", ["prompt", "changes", "path", "mode"])
def test_half_a_character_is_refused_and_leaves_no_run(page: Page, field: str):
    page.run(**{"prompt": "a box", field: "\ud83d"})
    assert text.HALF_A_CHARACTER in page.problem
    assert page.manager.current("") is None
    page.run()
    assert page.status["kind"] == "done"


@pytest.mark.parametrize(
    "path",
    [
        '[{"keys": ["w"], "n": true}]',
        '[{"keys": ["w"], "n": ' + "9" * 5_000 + "}]",
        '{"' + "9" * 5_000 + '": {}}',
        "w-1," * 2_000_000,
    ],
    ids=["true for a duration", "thousands of digits", "thousands of digits for a name", "megabytes"],
)
def test_a_path_that_was_no_path_error(path: str):
    with pytest.raises(PathError):
        parse_path(path)


def test_a_prompt_change_at_a_block_of_thousands_of_digits():
    with pytest.raises(FormError, match="is not `block: prompt`"):
        parse(replace(default_form(WAN), changes="9" * 5_000 + ": snow"), WAN)


@pytest.mark.parametrize("asked", [None, [], "w", 3, {"points": [[0, 0], [0, 10**400]], "model": "pocket"}])
def test_what_is_no_map(page: Page, asked: Any):
    for function in (camera.follow, camera.read, camera.write):
        assert "error" in function(asked) or function is not camera.follow
    assert page.steer(asked) is False


def test_a_file_that_compares_lists():
    form = Form.recalled({"sides": [[], {}, "BF16"]}, POCKET)
    assert form.sides == ("BF16",)


@pytest.mark.parametrize(
    "changed",
    [
        {"order": 10**400},
        {"order": float("nan")},
        {"id": "\ud800"},
        {"prompt": "\ud800"},
        {"reseeds": [1]},
        {"reseeds": [[1]]},
        {"made": {"fps": 0, "frames": 4, "blocks": 1}},
        {"made": {"fps": "x", "frames": [], "blocks": "y"}},
        {"made": {"fps": 8, "sides": [{**SIDE, "codec": []}]}},
        {"made": {"fps": 8, "sides": [{**SIDE, "ratio": None}]}},
        {"made": {"fps": 8, "sides": [{**SIDE, "kv_bytes": [None]}]}},
    ],
    ids=str,
)
@pytest.mark.parametrize("state", ["done", "waiting", "running"])
def test_one_run_folder_does_not_keep_the_page_from_loading(page: Page, state: str, changed: dict[str, Any]):
    page.run()
    folder = page.manager.outputs / "2000-01-01-000000-000-a"
    folder.mkdir()
    told = {"id": "a", "owner": "", "state": state, "model": "pocket", "form": {}, **changed}
    (folder / "run.json").write_text(json.dumps(told))
    later = Page(RunManager(FakeWorker(block_seconds=0.0), page.manager.outputs))
    later.watch(later.runs.arrive(later.request, later.visitor))
    assert page.run_id in [card["id"] for card in later.history]
    for past in RunIndex(page.manager.outputs).newest(9):
        json.dumps([lists_view.history_of([past], "", False), past.view(INFO)]).encode()


def test_a_full_disk_keeps_the_blocks_that_are_the_only_copy(page: Page, monkeypatch: pytest.MonkeyPatch):
    join = mp4.join

    def full(segments: Any, target: Any, *rest: Any) -> int:
        if isinstance(target, Path):
            raise OSError(errno.ENOSPC, "No space left on device")
        return join(segments, target, *rest)

    monkeypatch.setattr(mp4, "join", full)
    page.run(**{**QUICK, "prompt": "instant"})
    assert "the disk is full" in " ".join(page.status["notes"])
    (folder,) = page.manager.outputs.glob("2*")
    assert len(list(folder.glob("segment-*"))) == QUICK["blocks"]
    assert page.record.presenter.folder._segments, "nor later"
    # There is room, and the program starts again.
    monkeypatch.undo()
    page.record.presenter.folder.release()
    later = Page(RunManager(FakeWorker(), page.manager.outputs))
    later.watch(later.runs.arrive(later.request, later.visitor))
    later.press(later.runs.history, id=page.run_id, action="show")
    assert len(frames_of(later)) == 4 * QUICK["blocks"]


def test_half_an_export_is_not_left(page: Page, monkeypatch: pytest.MonkeyPatch):
    page.run(memory="compare", sides=["BF16", "QVG INT2"])

    def full(sides: Any, target: Path, *rest: Any) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(export, "write_mp4", full)
    monkeypatch.setattr(export, "write_animation", full)
    for listener in (page.runs.export_video, page.runs.export_gif):
        page.watch(listener(page.request, page.visitor, page.run_id))
        assert "could not be written" in page.problem
    assert not list(page.manager.outputs.glob("*/export/*"))


def test_a_worker_that_is_closed_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from PIL import Image

    worker = FakeWorker()
    page = Page(RunManager(worker, tmp_path / "outputs"))
    picture = tmp_path / "a.png"
    Image.new("RGB", (40, 30)).save(picture)

    def closed(job: Any) -> Any:
        raise RuntimeError("this worker is closed")

    monkeypatch.setattr(worker, "submit", closed)
    page.run(picture=str(picture))
    assert text.CLOSED in page.problem
    assert not list((tmp_path / "outputs").glob("2*"))


def test_latents_that_are_no_numbers_are_no_picture():
    class Decoder:
        def decode(self, latents: torch.Tensor) -> torch.Tensor:
            return torch.zeros(1, 4, 3, 8, 8)

    decoding = Decoding(Decoder(), torch.device("cpu"))
    decoding.start(torch.zeros(1, 1, 4, 2, 2))
    assert decoding.finish().shape == (4, 8, 8, 3)
    decoding.start(torch.full((1, 1, 4, 2, 2), float("nan")))
    with pytest.raises(NonFiniteLatents, match="generate it again, or with another codec"):
        decoding.finish()


def test_a_program_that_misspells_an_input_is_told(tmp_path: Path):
    import httpx

    from ui.page import build

    page = build(FakeWorker(), tmp_path)
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, server_port=None)
    try:
        for path, body in (("call/v2/generate", {"promt": "a box"}), ("call/generat", {"data": []})):
            answer = httpx.post(f"{address}gradio_api/{path}", json=body)
            assert (answer.status_code, answer.json()["detail"]) == (400, text.REFUSED)
    finally:
        page.close()


@pytest.mark.parametrize("brought", [1 << 64, "\ud800", "x" * 65, "\x00", "", None])
def test_a_program_that_brings_no_visitor_of_ours_gets_one(page: Page, brought: Any):
    page.manager.shared = True
    visitors = [
        changes[page.stage.visitor]
        for changes in page.runs.arrive(page.request, brought)
        if page.stage.visitor in changes
    ]
    assert visitors and all(isinstance(visitor, str) and len(visitor) == 22 for visitor in visitors)
    assert page.manager.owner(brought) != page.manager.owner(visitors[0])
