"""The page's behaviour on a fake worker, without a browser."""

import errno
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import gradio as gr
import pytest

from backends import registry
from qvg.config import BF16
from tests.ui.fake_worker import INFO, FakeWorker, counter
from ui import build, controls, media
from ui.handlers import Handlers, Stage


class Page:
    """The form with its defaults, and what the last events left on the screen."""

    def __init__(self, worker: Any, outputs: Path) -> None:
        with gr.Blocks():
            self.ui = controls.build(registry.entries())
            self.stage = Stage(gr.HTML(), gr.HTML(), gr.HTML(), gr.State(""))
        self.handlers = Handlers(worker, outputs, self.ui, self.stage)
        self.shown: dict[Any, Any] = {}
        self.statuses: list[str] = []

    def values(self, **changes: Any) -> list[Any]:
        values = {
            "prompt": "instant", "picture": None, "seed": 7, "mode": None, "path": "", "memory": "quantised",
            "preset": "QVG INT2", "blocks": 8, "as_path": False, "clusters": 64, "group": 64, "stages": 1,
            "iterations": 2, "every": 6, "sink": 0, "recent": 0, "window": 0,
        }  # fmt: skip
        return list({**values, **changes}.values())

    def start(self, model: str = "pocket", randomize: bool = False, **changes: Any):
        return self.handlers.generate(model, randomize, *self.values(**changes))

    def see(self, changes: dict[Any, Any]) -> None:
        self.shown.update(changes)
        status = changes.get(self.stage.status)
        if status is not None and "text" in status:
            self.statuses.append(status["text"])

    def run(self, **changes: Any) -> None:
        for change in self.start(**changes):
            self.see(change)

    @property
    def player(self) -> dict[str, Any]:
        return self.shown[self.stage.player]

    @property
    def status(self) -> dict[str, Any]:
        return self.shown[self.stage.status]

    def final(self) -> Path:
        return Path(unquote(self.player["final"].removeprefix("/gradio_api/file=")))


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker(block_seconds=0.1)


@pytest.fixture
def page(worker, tmp_path) -> Page:
    return Page(worker, tmp_path)


def numbers(file: Path) -> list[int]:
    return [counter(frame) for frame in media.decode(file)]


def test_a_run_from_click_to_file(page, worker, tmp_path):
    page.run(path="w-4, right-2")
    assert page.status["kind"] == "done"
    assert "32 frames" in page.status["text"]
    assert page.status["notes"] == ["Understood: instant."]
    assert page.player["ended"]
    assert len(page.player["segments"]) == 8
    assert page.player["planned"] == pytest.approx(32 / 12)
    assert numbers(page.final()) == list(range(32))
    assert page.final().is_relative_to(tmp_path)
    kept = media.read_settings(page.final())
    assert (kept["prompt"], kept["seed"], kept["path"]) == ("instant", 7, "w-4, right-2")
    assert kept["made"]["frames"] == 32
    assert page.shown[page.stage.gauge]["title"] == "KV cache at the end"
    assert worker.jobs[0].request.blocks == 8


def test_segments_are_only_ever_added(page):
    seen: list[str] = []
    for changes in page.start():
        page.see(changes)
        if page.stage.player in changes:
            assert page.player["segments"][: len(seen)] == seen
            seen = page.player["segments"]
    assert len(seen) == 8


def test_the_first_message_swaps_the_buttons_and_the_last_swaps_them_back(page):
    messages = list(page.start())
    first, last = messages[0], messages[-1]
    assert first[page.ui.stop].visible is True
    assert first[page.ui.generate].visible is False
    assert last[page.ui.stop].visible is False
    assert last[page.ui.generate].visible is True


def test_bf16_is_what_the_switch_says(page, worker):
    page.run(memory="bf16")
    assert worker.jobs[0].codec is BF16
    assert page.shown[page.stage.gauge]["ratio"] == "1.0×"


def test_a_new_seed_is_written_back(page, worker):
    page.run(randomize=True, blocks=1)
    seed = page.shown[page.ui.seed]
    assert seed == worker.jobs[0].request.seed
    assert seed != 7


def test_the_seed_stays_otherwise(page, worker):
    page.run(blocks=1)
    assert page.shown[page.ui.seed] == worker.jobs[0].request.seed == 7


def test_stop_keeps_what_there_is(page):
    events = page.start(prompt="slow", blocks=50)
    for changes in events:
        page.see(changes)
        if page.shown.get(page.stage.player, {}).get("segments"):
            page.handlers.stop(page.shown[page.stage.run_id])
            break
    for changes in events:
        page.see(changes)
    assert page.status["kind"] == "done"
    assert page.status["text"].startswith("Stopped: ")
    made = numbers(page.final())
    assert made == list(range(len(made)))
    assert 4 <= len(made) <= 8


def test_a_viewer_who_leaves_stops_the_run(page, worker):
    events = page.start(prompt="slow", blocks=50)
    next(events)
    events.close()
    assert worker.stopped


def test_stopping_an_unknown_run_does_nothing(page):
    page.handlers.stop("")
    page.handlers.stop("someone else's")


def test_two_visitors_take_turns(worker, tmp_path):
    first, second = Page(worker, tmp_path), Page(worker, tmp_path)
    one = first.start(prompt="slow", blocks=2)
    first.see(next(one))
    two = second.start(blocks=1)
    for _ in range(2):
        second.see(next(two))
    assert any("you are next" in said for said in second.statuses)
    for changes in one:
        first.see(changes)
    for changes in two:
        second.see(changes)
    assert first.shown[first.stage.run_id] != second.shown[second.stage.run_id]
    assert len(numbers(first.final())) == 8
    assert len(numbers(second.final())) == 4


def test_a_failed_run_keeps_what_was_made(page):
    page.run(prompt="fail")
    assert page.status["kind"] == "error"
    assert "Out of memory in block 3" in page.status["text"]
    assert numbers(page.final()) == list(range(8))
    assert page.player["ended"]


@pytest.mark.parametrize("model", ["self_forcing", "worldplay", "longcat"])
def test_a_model_that_is_not_here_says_so(page, model):
    entry = next(entry for entry in registry.entries() if entry.spec.id == model)
    if entry.missing is None:
        pytest.skip(f"{model} is here")
    spec = entry.spec
    page.run(
        model=model, blocks=1, every=spec.policy.every, window=spec.policy.window or 0, clusters=spec.clusters
    )
    assert page.status["kind"] == "error"
    assert spec.title in page.status["text"]
    assert not page.player["segments"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"path": "w-8, fly-3"}, "move 2 (character 6)"),
        ({"blocks": 0}, "makes 1 to 120 blocks"),
        ({"prompt": "x" * 100_000}, "100,000 characters"),
        ({"seed": None}, "The seed is empty"),
    ],
)
def test_bad_input_is_a_sentence_and_starts_nothing(page, worker, changes, words):
    page.run(**changes)
    assert page.status["kind"] == "error"
    assert words in page.status["text"]
    assert worker.jobs == []
    assert set(page.shown) <= {page.stage.status, page.ui.generate, page.ui.stop}


def test_a_bad_picture_is_a_sentence(page, worker, tmp_path):
    (tmp_path / "a.png").touch()
    page.run(picture=str(tmp_path / "a.png"))
    assert "empty" in page.status["text"]
    assert worker.jobs == []
    note = page.handlers.look_at_picture(str(tmp_path / "a.png"))[page.ui.picture_note]
    assert "empty" in note


def test_words_of_the_user_are_escaped(page):
    page.run(path="<img src=x onerror=alert(1)>-2")
    assert "<img" not in page.status["text"]
    note = page.handlers.draw_path("pocket", "<b>-2")[page.ui.path_note]
    assert "<b>" not in note


def test_a_full_disk_leaves_a_video_in_the_page(page, monkeypatch):
    def full(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    page.run(blocks=2)
    assert page.status["kind"] == "done"
    assert "the disk is full" in page.status["notes"][-1]
    assert all(address.startswith("data:video/mp4;base64,") for address in page.player["segments"])
    assert page.player["final"].startswith("data:video/mp4;base64,")


def test_a_video_that_cannot_be_put_together_is_said_and_its_blocks_stay(page, monkeypatch):
    monkeypatch.setattr(media, "join", lambda *_: 1 / 0)
    page.run(blocks=2)
    assert page.status["kind"] == "done"
    assert "no file could be made" in page.status["notes"][-1]
    assert len(page.player["segments"]) == 2
    assert page.player["final"] is None


def test_a_closed_worker_is_a_sentence(tmp_path):
    class Closed(FakeWorker):
        def submit(self, job):
            raise RuntimeError("this worker is closed")

    page = Page(Closed(), tmp_path)
    page.run()
    assert "restart the program" in page.status["text"]


def test_an_error_of_ours_is_a_sentence_and_stops_the_run(page, worker, monkeypatch):
    monkeypatch.setattr(media, "encode_segment", lambda *_: 1 / 0)
    page.run()
    assert page.status["kind"] == "error"
    assert "Traceback" not in page.status["text"]
    assert worker.stopped


def test_the_path_is_explained_as_it_is_typed(page):
    good = page.handlers.draw_path("pocket", "w-8, right-4")
    assert "2 moves, 12 latent frames" in good[page.ui.path_note]
    assert "<svg" in good[page.ui.map]
    bad = page.handlers.draw_path("pocket", "w-8, rihgt-4")
    assert "move 2 (character 6)" in bad[page.ui.path_note]
    assert page.ui.map not in bad


def plan_values(page: Page, **changes: Any) -> list[Any]:
    return page.values(**changes)[4:]


def test_the_plan_is_in_words_before_the_click(page, worker):
    worker.info = INFO
    said = page.handlers.foresee("", "pocket", *plan_values(page, blocks=12))
    assert "12 blocks, 48 frames, 4.0 s at 12 fps" in said[page.ui.length_note]
    assert re.search(r"ends at .* instead of .* in BF16.* fits\.", said[page.ui.memory_note])
    assert said[page.stage.gauge]["live"] is False


def test_the_plan_leaves_a_finished_gauge_alone(page):
    assert page.stage.gauge not in page.handlers.foresee("a-run", "pocket", *plan_values(page))


@pytest.mark.parametrize("changes", [{"blocks": None}, {"window": 2}, {"group": 5}, {"blocks": 500}])
def test_a_plan_that_cannot_be_is_a_sentence(page, changes):
    said = page.handlers.foresee("", "pocket", *plan_values(page, **changes))
    assert "bad" in said[page.ui.length_note]
    assert said[page.ui.memory_note] == ""


def test_a_malformed_path_is_said_once(page):
    said = page.handlers.foresee("", "pocket", *plan_values(page, path="fly-3"))
    assert said[page.ui.length_note] == ""


@pytest.mark.parametrize("model", registry.IDS)
def test_choosing_a_model_sets_the_form(page, model):
    spec = registry.find(model)
    changes = page.handlers.choose_model(model, "QVG INT2")
    assert changes[page.ui.blocks].maximum == spec.max_blocks
    assert changes[page.ui.camera].visible == ("camera" in spec.inputs)
    assert changes[page.ui.every] == spec.policy.every
    assert spec.summary.split("'")[0] in changes[page.ui.about].replace("&#x27;", "'")


def test_choosing_a_mode_explains_it_and_sets_its_policy(page, worker):
    first, second, _ = registry.find("worldplay").modes
    changes = page.handlers.choose_model("worldplay", "QVG INT2")
    assert (changes[page.ui.mode].value, changes[page.ui.window]) == (first.id, first.policy.window)
    changes = page.handlers.choose_mode("worldplay", second.id)
    assert changes[page.ui.mode].info == second.about
    assert changes[page.ui.window] == 0
    page.run(model="worldplay", mode=second.id, every=2, blocks=1, clusters=256)
    page.run(model="pocket", mode=None, blocks=1)
    assert [job.request.mode for job in worker.jobs] == [second.id, ""]
    assert not page.handlers.choose_model("pocket", "QVG INT2")[page.ui.mode].visible


def test_choosing_a_preset_renames_the_switch(page):
    changes = page.handlers.choose_preset("pocket", "QVG-Pro INT2")
    assert ("QVG-Pro INT2", "quantised") in changes[page.ui.memory].choices
    assert changes[page.ui.stages].value == 4
    assert changes[page.ui.group].value == 16


def test_the_page_builds_without_starting_or_writing_anything(tmp_path):
    worker = FakeWorker()
    studio = build.build(worker, tmp_path / "outputs")
    assert worker.info is None
    assert not (tmp_path / "outputs").exists()
    labels = {
        block.label for block in studio.blocks.values() if isinstance(block, gr.components.FormComponent)
    }
    assert "" not in labels
