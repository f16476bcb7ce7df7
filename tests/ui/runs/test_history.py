"""Runs of the past: listed, shown, made again, taken up after a restart."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.ui.fake_worker import FakeWorker
from tests.ui.page import Page, file_of, numbers
from ui.form.values import FormError
from ui.runs import history, mp4
from ui.runs.folder import RunFolder
from ui.runs.manager import RunManager


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker(block_seconds=0.05)


@pytest.fixture
def page(worker, tmp_path) -> Page:
    return Page(RunManager(worker, tmp_path))


def restarted(page: Page, worker=None) -> Page:
    """The same folder in another program."""
    page.manager.close()
    for record in page.manager._records.values():
        record.presenter.folder.release()
    return Page(RunManager(worker or FakeWorker(block_seconds=0.02), page.manager.outputs))


def arrive(page: Page) -> None:
    page.watch(page.runs.arrive(page.request, page.visitor))


def test_history_survives_a_restart_with_all_its_figures(page, tmp_path):
    page.run(memory="compare", sides=["BF16", "QVG INT2"], blocks=3, path="right-4, left-4")
    page.run(blocks=1, prompt="a second one")
    assert [card["name"] for card in page.history] == ["a second one", "instant"]
    before = dict(page.shown)
    later = restarted(page)
    arrive(later)
    assert [card["name"] for card in later.history] == ["a second one", "instant"]
    card = later.history[1]
    assert "BF16, seen again" in card["sides"]
    assert "QVG INT2" in card["sides"]
    assert file_of(card["picture"]).exists()
    later.press(later.runs.history, id=card["id"], action="show")
    assert [track["name"] for track in later.player["tracks"]] == ["BF16", "QVG INT2"]
    assert [numbers(later.final(side)) for side in range(2)] == [list(range(12))] * 2
    assert later.player["tracks"][1]["planned"] == pytest.approx(1.0)
    assert later.status["text"].startswith("Made on 20")
    assert [row[-1] for row in later.shown[later.stage.shown["compare"]]["rows"]]
    assert later.shown[later.stage.shown["gauge"]]["rows"][1]["phases"]
    assert later.shown[later.stage.extend].visible is False
    assert later.shown[later.stage.export].visible is True
    assert before[page.stage.run_id] != later.run_id
    later.watch(later.runs.export_gif(later.request, later.visitor, later.run_id))
    assert later.problem == ""
    later.see(later.runs.undo(later.request, later.visitor, later.run_id))
    assert "not in memory any more" in later.problem


def test_a_finished_run_is_shown_as_it_was_measured(page):
    page.run(memory="compare", sides=["BF16", "QVG INT2"], blocks=3)
    presenter = page.shown[page.stage.shown["compare"]]
    later = restarted(page)
    later.press(later.runs.history, id=page.run_id, action="show")
    assert later.shown[later.stage.shown["compare"]] == presenter


def test_to_the_form_and_again_and_deleted(page):
    page.run(blocks=2, path="w-3, left-2", memory="bf16", window=30)
    later = restarted(page)
    arrive(later)
    (card,) = later.history
    later.press(later.runs.history, id=card["id"], action="recall")
    ui = later.ui
    assert later.shown[ui.path] == "w-3, left-2"
    assert later.shown[ui.memory].value == "bf16"
    assert later.shown[ui.window] == 30
    assert later.shown[ui.blocks].value == 2
    later.press(later.runs.history, id=card["id"], action="again")
    assert len(later.history) == 2
    assert later.status["kind"] == "done"
    later.press(later.runs.history, id=card["id"], action="delete")
    assert [each["id"] for each in later.history] == [later.run_id]
    assert not page.final().exists()
    later.press(later.runs.history, id=card["id"], action="show")
    assert "not here any more" in later.problem


def test_long_histories_come_in_parts(page, monkeypatch):
    from ui.runs import lists_view

    monkeypatch.setattr(lists_view, "PAGE", 2)
    for _ in range(3):
        page.run(blocks=1)
    shown = page.shown[page.stage.history]
    assert (len(shown["runs"]), shown["more"]) == (2, True)
    page.press(page.runs.history, id="", action="more")
    shown = page.shown[page.stage.history]
    assert (len(shown["runs"]), shown["more"]) == (3, False)


def waiting_behind_a_slow_one(page: Page) -> list[str]:
    """Ids of a run under way with two blocks or more, and of two that wait, the second moved to the front."""
    events = page.start(prompt="slow", blocks=50)
    for changes in events:
        page.see(changes)
        if page.shown.get(page.stage.shown["player"]) and len(page.track["segments"]) >= 2:
            break
    for blocks in (2, 3):
        next(Page(page.manager).start(blocks=blocks, seed=blocks))
    while len(page.manager.waiting("")) < 2:
        time.sleep(0.02)
    first, second = (record.id for record in page.manager.waiting(""))
    page.press(page.runs.queue, id=second, action="up")
    return [page.run_id, second, first]


def test_what_waited_is_taken_up_and_what_ran_is_kept(page, worker):
    running, second, first = waiting_behind_a_slow_one(page)
    made = len(page.track["segments"])
    # The program is gone at once: nothing more is written.
    worker.kill()
    later = restarted(page)
    arrive(later)
    assert [job.request.blocks for job in later.manager.worker.begun] == [3, 2]
    assert {card["id"] for card in later.history} == {running, first, second}
    later.press(later.runs.history, id=running, action="show")
    assert later.status["kind"] == "error"
    assert "The program ended before this video did." in later.status["text"]
    assert numbers(later.final())[: 4 * made] == list(range(4 * made))
    assert not list(later.final().parent.glob("segment-*"))


def test_a_closed_program_leaves_what_waits_waiting(page, worker):
    _, second, first = waiting_behind_a_slow_one(page)
    page.manager.close()
    for record in list(page.manager._records.values()):
        record.run.stop()
    while page.manager.current("") is not None:
        time.sleep(0.02)
    later = restarted(page)
    arrive(later)
    assert [job.request.blocks for job in later.manager.worker.begun] == [3, 2]
    assert {first, second} <= {card["id"] for card in later.history}


def test_a_second_program_takes_nothing_from_the_first(page, worker):
    waiting_behind_a_slow_one(page)
    other = Page(RunManager(FakeWorker(), page.manager.outputs))
    next(other.runs.arrive(other.request, other.visitor))
    assert other.manager.worker.jobs == []
    worker.kill()


def test_a_program_that_starts_leaves_what_others_run(page, worker):
    """Also one that was there first, and comes back."""
    Page(page.manager).run(blocks=1)
    other = Page(RunManager(FakeWorker(), page.manager.outputs))
    running, *_ = waiting_behind_a_slow_one(other)
    before = {file: file.read_text() for file in page.manager.outputs.glob("*/run.json")}
    again = restarted(page)
    next(again.runs.arrive(again.request, again.visitor))
    assert again.manager.worker.jobs == []
    assert {file: file.read_text() for file in page.manager.outputs.glob("*/run.json")} == before
    assert list(page.manager.outputs.glob(f"*{running}/segment-*"))
    # Once the other is gone, however it went, they are taken up.
    other.manager.worker.kill()
    again = restarted(restarted(other))
    arrive(again)
    assert [job.request.blocks for job in again.manager.worker.begun] == [3, 2]


def test_a_run_that_another_program_has_is_not_deleted(page):
    page.run(blocks=1)
    other = Page(RunManager(FakeWorker(), page.manager.outputs))
    with pytest.raises(FormError, match="belongs to another QVG Studio"):
        other.manager.forget("", page.run_id)
    assert page.final().exists()
    later = restarted(page)
    later.manager.forget("", page.run_id)
    assert not page.final().exists()


def test_blocks_that_a_finished_run_left_behind_are_removed(page, monkeypatch):
    page.run(blocks=2)
    segments = list(page.final().parent.glob("segment-*"))
    assert len(segments) == 2, "for slow viewers"
    other = Page(RunManager(FakeWorker(), page.manager.outputs))
    arrive(other)
    assert all(file.exists() for file in segments), "another program's viewers may be fetching them"
    later = restarted(page)
    arrive(later)
    assert not any(file.exists() for file in segments)
    assert numbers(page.final()) == list(range(8))


def test_a_video_that_could_not_be_put_together_is_at_the_next_start(page, monkeypatch):
    monkeypatch.setattr(mp4, "join", lambda *_: 1 / 0)
    page.run(blocks=2)
    monkeypatch.undo()
    later = restarted(page)
    arrive(later)
    later.press(later.runs.history, id=page.run_id, action="show")
    assert numbers(later.final()) == list(range(8))
    assert not list(later.final().parent.glob("segment-*"))


def test_a_lock_ends_with_its_program(page):
    """However it ends: nothing is left that would be in the way."""
    page.run(blocks=1)
    folder = page.final().parent
    code = "import os, sys\nfrom pathlib import Path\nfrom ui.runs.folder import RunFolder\n"
    code += "print(RunFolder(Path(sys.argv[1])).hold(), flush=True)\nos.kill(os.getpid(), 9)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}

    def held_by_another() -> str:
        ran = subprocess.run(
            [sys.executable, "-c", code, str(folder)], env=environment, capture_output=True, text=True
        )
        return ran.stdout.strip()

    assert held_by_another() == "False"
    page.record.presenter.folder.release()
    assert held_by_another() == "True"
    assert RunFolder(folder).hold()


def test_blocks_beyond_the_first_video_are_put_behind_it(page, worker):
    page.run(blocks=2)
    events = page.runs.extend(page.request, page.visitor, page.run_id, 20, "")
    worker.block_seconds = 0.4
    for changes in events:
        page.see(changes)
        if (
            page.shown.get(page.stage.shown["player"])
            and page.player["run"].endswith(".2")
            and len(page.track["segments"]) >= 3
        ):
            break
    worker.kill()
    later = restarted(page)
    arrive(later)
    later.press(later.runs.history, id=page.run_id, action="show")
    made = numbers(later.final())
    assert made == list(range(len(made)))
    assert len(made) >= 16


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "gone"},
        {"form": 3},
        {"made": {"sides": [{"codec": "<b>"}], "fps": 12, "frames": 4}},
        {"made": 7},
        {"reseeds": [["x", 2]]},
    ],
)
def test_a_folder_of_another_version_is_listed_and_does_no_harm(page, settings):
    page.run(blocks=1)
    file = page.final().parent / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **settings}))
    later = restarted(page)
    arrive(later)
    (card,) = later.history
    assert "<" not in str(card)
    later.press(later.runs.history, id=card["id"], action="show")
    assert later.player["tracks"]
    later.press(later.runs.history, id=card["id"], action="again")
    later.press(later.runs.history, id=card["id"], action="recall")


def test_a_dropped_file_fills_the_form(page, tmp_path):
    page.run(blocks=2, path="w-3", memory="compare", sides=["BF16", "RTN INT2"], prompt="dropped")
    (tmp_path / "copy.json").write_text((page.final().parent / "run.json").read_text())
    for file in (page.final(1), tmp_path / "copy.json"):
        page.shown.clear()
        page.see(page.runs.drop(str(file)))
        assert page.shown[page.ui.prompt] == "dropped"
        assert page.shown[page.ui.memory].value == "compare"
    for name, content in (
        ("a.json", "{}"),
        ("b.mp4", ""),
        ("c.json", "[" * 99_999),
        ("d.json", '{"form": {}}'),
    ):
        (tmp_path / name).write_text(content)
        page.see(page.runs.drop(str(tmp_path / name)))
        assert "holds no settings" in page.problem


def test_no_file_that_is_handed_on_says_whose_it_is(page, worker):
    """Nor one that was put together after the program had ended, or exported."""
    other = Page(page.manager)
    other.run(memory="compare", sides=["BF16", "QVG INT2"], blocks=1)
    other.watch(other.runs.export_json(other.request, other.visitor, other.run_id))
    running, *_ = waiting_behind_a_slow_one(page)
    worker.kill()
    arrive(restarted(page))
    cut_off = next(page.manager.outputs.glob(f"*{running}"))
    files = [*page.manager.outputs.rglob("*-seed-*.mp4"), *page.manager.outputs.rglob("export/*.json")]
    files = [file for file in files if not file.name.startswith("segment-")]
    assert {file.suffix for file in files} == {".mp4", ".json"}
    assert any(file.parent == cut_off for file in files)
    for file in files:
        assert not {"id", "owner", "order", "state"} & set(history.read_settings(file)), file
