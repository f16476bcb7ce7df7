"""Runs on the page, with a fake worker and without a browser."""

import errno
import json
import threading
import time
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import gradio as gr
import numpy as np
import pytest
from PIL import Image

from backends import registry
from backends.camera import CameraMove
from qvg.config import BF16
from tests.ui.fake_worker import FakeWorker
from tests.ui.page import Page, numbers, steps
from ui.runs import mp4
from ui.runs.manager import RUNS_IN_ALL, Record, RunManager, RunState


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker(block_seconds=0.05)


@pytest.fixture
def page(worker, tmp_path) -> Page:
    return Page(RunManager(worker, tmp_path))


def until(true, timeout=10.0):
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def test_a_run_from_click_to_file(page, worker, tmp_path):
    page.run(path="w-4, right-2")
    assert page.status["kind"] == "done"
    assert "32 frames" in page.status["text"]
    assert page.status["notes"][0] == "Understood: instant."
    assert "wait in memory for Extend" in page.status["notes"][1]
    assert page.player["ended"]
    assert len(page.track["segments"]) == 8
    assert page.track["planned"] == pytest.approx(32 / 12)
    assert numbers(page.final()) == list(range(32))
    assert page.final().is_relative_to(tmp_path)
    kept = mp4.read_settings(page.final())
    assert (kept["prompt"], kept["seed"], kept["path"]) == ("instant", 7, "w-4, right-2")
    assert kept["walked"] == "w-4, right-2, still-25"
    assert kept["made"]["frames"] == 32
    assert page.shown[page.stage.shown["gauge"]]["title"] == "KV cache at the end"
    assert worker.jobs[0].request.blocks == 8
    record = json.loads((page.final().parent / "run.json").read_text())
    assert record["state"] == "done"
    assert {**record, "side": 0}.items() >= kept.items()
    assert {"run.json", "thumbnail.jpg", page.final().name} <= {f.name for f in page.final().parent.iterdir()}


def test_segments_are_only_ever_added(page):
    seen: list[str] = []
    for changes in page.start():
        page.see(changes)
        if page.stage.shown["player"] in changes:
            assert page.track["segments"][: len(seen)] == seen
            seen = page.track["segments"]
    assert len(seen) == 8


def test_the_buttons_say_what_they_do_now(page):
    seen = [changes for changes in page.start() if page.stage.shown["status"] in changes]
    first, last = seen[0], seen[-1]
    assert first[page.ui.stop].visible is True
    assert first[page.ui.generate].value == "Add to queue"
    assert first[page.stage.actions].visible is False
    assert last[page.ui.stop].visible is False
    assert last[page.ui.generate].value == "Generate"
    assert last[page.stage.actions].visible is True
    assert last[page.stage.export].visible is False


def test_progress_says_how_long_it_will_take(page):
    page.run(prompt="", blocks=6)
    told = [said for said in page.statuses if said.startswith("Block")]
    assert any("left" in said for said in told)
    assert "left" not in told[0]


def test_sides_run_in_step_and_are_compared(page, worker):
    page.run(memory="compare", sides=["BF16", "QVG INT2", "KIVI INT2"], path="right-8, left-8", blocks=5)
    assert worker.jobs[0].sides[0].codec is BF16
    assert [track["name"] for track in page.player["tracks"]] == ["BF16", "QVG INT2", "KIVI INT2"]
    for side in range(3):
        assert numbers(page.final(side)) == list(range(20))
        assert mp4.read_settings(page.final(side))["side"] == side
    table = page.shown[page.stage.shown["compare"]]
    assert table["columns"] == ["", "KV cache", "smaller", "first block", "0–2 s", "all", "SSIM", "revisit"]
    assert table["rows"][0][3:7] == ["–"] * 4
    first, second = (float(row[5].removesuffix(" dB")) for row in table["rows"][1:])
    # The fake tints its sides by 8 and 16 in one of three channels.
    assert first == pytest.approx(10 * np.log10(255**2 / (8**2 / 3)), abs=1.0)
    assert second == pytest.approx(first - 20 * np.log10(2), abs=1.0)
    assert all("dB" in row[-1] for row in table["rows"])
    assert [len(chart["lines"][1].split()) for chart in table["charts"]] == [5, 5]
    assert page.shown[page.stage.export].visible is True
    made = mp4.read_settings(page.final())["made"]["sides"]
    assert [len(side["psnr_by_block"]) for side in made] == [5, 5, 5]
    assert made[1]["revisit_frames"] == made[0]["revisit_frames"] > 0


def test_a_side_that_runs_out_of_its_budget_says_at_which_frame(page):
    page.run(memory="compare", sides=["BF16", "QVG INT2"], budget=32, when_full="stop", blocks=12)
    bf16, qvg = page.player["tracks"]
    assert bf16["note"].startswith("out of memory at frame 33")
    assert "out of memory" not in qvg["note"]
    assert len(numbers(page.final(0))) == 32
    assert len(numbers(page.final(1))) == 48
    assert page.status["kind"] == "done"


def test_a_new_seed_is_written_back(page, worker):
    page.run(randomize=True, blocks=1)
    seed = page.shown[page.ui.seed]
    assert seed == worker.jobs[0].request.seed
    assert seed != 7


def test_stop_keeps_what_there_is_and_says_what_it_freed(page):
    events = page.start(prompt="slow", blocks=50)
    for changes in events:
        page.see(changes)
        if page.shown.get(page.stage.shown["player"]) and page.track["segments"]:
            page.runs.stop(page.request, page.visitor, page.run_id)
            break
    page.watch(events)
    assert page.status["kind"] == "done"
    assert page.status["text"].startswith("Stopped: ")
    assert "9.0 MiB of cache freed" in page.status["text"]
    made = numbers(page.final())
    assert made == list(range(len(made)))
    assert 4 <= len(made) <= 8


def test_a_run_goes_on_when_its_viewer_leaves_and_is_found_again(page, worker):
    events = page.start(prompt="", blocks=6)
    for _ in range(3):
        page.see(next(events))
    events.close()
    assert not worker.stopped
    later = Page(page.manager)
    later.watch(later.runs.arrive(later.request, ""))
    assert later.run_id == page.run_id
    assert later.status["kind"] == "done"
    assert len(numbers(later.final())) == 24
    assert [card["id"] for card in later.history] == [later.run_id]


def test_a_run_that_ended_while_nobody_looked_is_shown_on_return(page):
    events = page.start(blocks=2)
    next(events)
    events.close()
    until(lambda: page.manager.current("") is None)
    for shown in ("done", None):
        later = Page(page.manager)
        later.watch(later.runs.arrive(later.request, ""))
        assert later.shown.get(later.stage.shown["status"], {}).get("kind") == shown


def test_what_another_tab_has_shown_is_shown_to_a_tab_that_was_here(page):
    events, other = page.start(blocks=1), Page(page.manager)
    while page.shown.get(page.stage.shown["status"], {}).get("kind") != "done":
        page.see(next(events))
    own = page.run_id
    # While this tab is being told of its own run, another makes one and sees its end.
    other.run(blocks=2)
    assert other.record.end_seen
    page.watch(events)
    assert page.run_id == other.run_id != own
    assert page.status["kind"] == "done"
    assert numbers(page.final()) == list(range(8))
    assert len(page.history) == 2


def test_a_tab_is_shown_its_own_run_even_where_another_tab_was_quicker(page):
    events, other = page.start(blocks=1), Page(page.manager)
    page.see(next(events))
    until(lambda: page.manager.current("") is None)
    other.watch(other.runs.arrive(other.request, ""))
    assert other.record.end_seen
    page.watch(events)
    assert page.run_id == other.run_id
    assert page.status["kind"] == "done"


def test_in_a_shared_program_a_run_nobody_watches_is_stopped(page, worker, monkeypatch):
    monkeypatch.setattr("ui.runs.manager.ABANDONED_S", 0.1)
    monkeypatch.setattr("ui.runs.manager.HEARTBEAT_S", 0.05)
    page.manager.shared = True
    events = page.start(prompt="slow", blocks=50)
    while not page.run_id:
        page.see(next(events))
    time.sleep(0.3)
    assert not worker.stopped, "it is watched"
    events.close()
    until(lambda: worker.stopped)


def test_in_a_shared_program_visitors_see_only_their_own_runs(page, worker, tmp_path):
    page.manager.shared = True
    page.run(blocks=1)
    stranger = Page(page.manager, "a stranger")
    stranger.watch(stranger.runs.arrive(stranger.request, stranger.visitor))
    assert stranger.history == []
    stranger.see(stranger.runs.undo(stranger.request, stranger.visitor, page.run_id))
    assert stranger.problem
    stranger.watch(stranger.runs.export_json(stranger.request, stranger.visitor, page.run_id))
    assert "could not be saved" in stranger.problem
    stranger.press(stranger.runs.history, id=page.run_id, action="delete")
    assert page.final().exists()
    # What lets a visitor in is in no file that is served.
    assert page.visitor not in (page.final().parent / "run.json").read_text()
    assert [past.id for past in page.manager.past(page.manager.owner(page.visitor), 9)] == [page.run_id]


def everything_done_with(page: Page, run_id: str) -> list[Any]:
    """What each listener answers that is given a run of someone else."""
    request, name, shown = page.request, page.visitor, {"runs": []}

    def pick(action: str) -> list[Any]:
        return list(page.runs.history(request, SimpleNamespace(id=run_id, action=action), name, "", shown))

    return [
        *map(pick, ("show", "again", "recall", "delete", "more")),
        *(list(do(request, name, run_id)) for do in (page.runs.export_json, page.runs.retake)),
        list(page.runs.extend(request, name, run_id, 1, "")),
        page.runs.undo(request, name, run_id),
        page.runs.redo(request, name, run_id),
        page.runs.again(request, name, run_id),
        list(page.runs.watch(request, name)),
        list(page.runs.arrive(request, name)),
        *(page.runs.queue(request, SimpleNamespace(id=run_id, action=a), name) for a in ("up", "remove")),
    ]


@pytest.mark.parametrize("name", ["", "  ", None, 7, "x" * 65, "\n", "é", ["a"], {}])
def test_visitors_without_a_name_are_apart(worker, tmp_path, name):
    manager = RunManager(worker, tmp_path)
    manager.shared = True
    hers, his = Page(manager, name), Page(manager, name)
    hers.run(blocks=2)
    asked = len(worker.jobs)
    assert hers.run_id not in str(everything_done_with(his, hers.run_id))
    assert hers.final().exists()
    assert len(worker.jobs) == asked
    # The one who made it still has it.
    assert [card["id"] for card in hers.history] == [hers.run_id]
    hers.see(hers.runs.undo(hers.request, name, hers.run_id))
    assert "1 block left" in hers.status["text"]


def test_no_one_stops_what_a_visitor_without_a_name_waits_for(worker, tmp_path):
    manager = RunManager(worker, tmp_path)
    manager.shared = True
    hers, his = Page(manager, ""), Page(manager, "")
    events = hers.start(prompt="slow", blocks=50)
    while not hers.run_id:
        hers.see(next(events))
    his.runs.stop(his.request, "", hers.run_id)
    assert his.runs.queue(his.request, SimpleNamespace(id=hers.run_id, action="remove"), "")
    assert not worker.stopped
    hers.runs.stop(hers.request, "", hers.run_id)
    hers.watch(events)
    assert worker.stopped


def test_a_click_before_the_first_answer_and_one_after_it_are_the_same_visitors(worker, tmp_path):
    manager = RunManager(worker, tmp_path)
    manager.shared = True
    page = Page(manager, "")
    page.run(blocks=1)
    page.watch(page.runs.arrive(page.request, ""))
    page.visitor = page.shown[page.stage.visitor]
    assert page.visitor
    # Another tab of the same browser, which has kept the name.
    later = Page(manager, page.visitor)
    later.watch(later.runs.arrive(later.request, later.visitor))
    assert [card["id"] for card in later.history] == [page.run_id]
    assert page.request.session_hash not in page.visitor


def test_a_local_page_has_one_history_whoever_looks(page):
    page.run(blocks=1)
    for name in ("", None, "another"):
        later = Page(page.manager, name)
        later.watch(later.runs.arrive(later.request, name))
        assert [card["id"] for card in later.history] == [page.run_id]


@pytest.fixture
def shared(worker, tmp_path) -> RunManager:
    manager = RunManager(worker, tmp_path)
    manager.shared = True
    return manager


def running(manager: RunManager, visitor: str, **changes: Any) -> tuple[Page, Any]:
    """A visitor's page with a run that has begun, and its stream."""
    page = Page(manager, visitor)
    events = page.start(**{"prompt": "slow", "blocks": 50, **changes})
    while not page.run_id:
        page.see(next(events))
    return page, events


def test_no_number_of_page_loads_ends_anothers_view(shared, worker):
    hers, events = running(shared, "her")
    _, other_events = running(shared, "his")
    before = threading.active_count()
    loads = []
    for number in range(260):
        tab = Page(shared, "his" if number % 2 else f"visitor {number}")
        # All over one `RunEvents`, as on a page.
        load = steps(hers.runs._runs.arrive(tab.request, tab.visitor))
        next(load)
        loads.append(load)
    seen = next(events)
    assert hers.stage.shown["status"] in seen, "her stream goes on"
    assert threading.active_count() < before + 50, "streams wait without a thread each"
    for load in loads:
        load.close()
    assert not worker.stopped
    hers.runs.stop(hers.request, "her", hers.run_id)
    hers.watch(events)
    assert hers.status["kind"] == "done"
    other_events.close()
    assert not hers.runs._runs._streams


def test_a_visitor_with_too_many_tabs_loses_the_oldest_of_them_only(shared):
    hers, events = running(shared, "her")
    tabs = [Page(shared, "her") for _ in range(20)]
    streams = [steps(hers.runs._runs.arrive(tab.request, "her")) for tab in tabs]
    for stream in streams:
        next(stream)
    assert list(events) == [{hers.ui.problem: gr.skip()}]
    tabs[-1].see(next(streams[-1]))
    assert tabs[-1].run_id == hers.run_id
    for stream in streams:
        stream.close()


def test_a_second_run_is_kept_while_the_first_is_watched(shared, worker, monkeypatch):
    monkeypatch.setattr("ui.runs.manager.ABANDONED_S", 0.1)
    monkeypatch.setattr("ui.runs.manager.HEARTBEAT_S", 0.05)
    hers, events = running(shared, "her")
    other = Page(shared, "her")
    next(other.start(blocks=1))
    first, second = shared.find(shared.owner("her"), hers.run_id), shared.waiting(shared.owner("her"))[0]
    for _ in range(6):
        time.sleep(0.05)
        hers.see(next(events))
    assert not first.stopping
    assert not second.stopping
    events.close()
    until(lambda: first.ended and second.ended)
    assert len(worker.stopped) == 2


def test_a_visitor_who_looks_at_the_past_keeps_what_runs(shared, worker, monkeypatch):
    monkeypatch.setattr("ui.runs.manager.ABANDONED_S", 0.1)
    monkeypatch.setattr("ui.runs.manager.HEARTBEAT_S", 0.05)
    page = Page(shared, "her")
    page.run(blocks=1)
    past = page.run_id
    events = page.start(prompt="slow", blocks=50)
    while page.run_id == past:
        page.see(next(events))
    page.watch(page.runs.history(page.request, SimpleNamespace(id=past, action="show"), "her", past, {}))
    for _ in range(6):
        time.sleep(0.05)
        assert next(events) == {page.ui.problem: gr.skip()}, "what runs stays off the screen"
    assert not worker.stopped
    assert page.run_id == past
    events.close()
    until(lambda: worker.stopped)


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_visitor_has_so_many_runs_at_once_and_no_more(worker, tmp_path, most):
    manager = RunManager(worker, tmp_path, most)
    manager.shared = True
    hers, events = running(manager, "her")
    for number in range(1, 4):
        other = Page(manager, "her")
        waiting = other.start(blocks=1)
        other.see(next(waiting))
        assert ("one visitor may" in other.problem) == (number >= most)
        waiting.close()
    assert len(worker.jobs) == most
    assert len(list(tmp_path.glob("2*"))) == most
    # Neither again, nor an example, nor more blocks of another.
    other.again()
    other.press(other.runs.example, name="Drive")
    assert len(worker.jobs) == most
    stranger = Page(manager, "stranger")
    next(stranger.start(blocks=1))
    assert stranger.problem == ""
    hers.runs.stop(hers.request, "her", hers.run_id)
    hers.watch(events)
    hers.run(blocks=1)
    assert hers.status["kind"] == "done"


def test_more_blocks_count_as_a_run(shared, worker):
    page = Page(shared, "her")
    page.run(blocks=1)
    done = page.run_id
    for _ in range(2):
        next(Page(shared, "her").start(prompt="slow", blocks=50))
    page.watch(page.runs.extend(page.request, "her", done, 1, ""))
    assert "You have 2 videos running or waiting" in page.problem
    assert len(worker.jobs) == 3


def test_a_full_queue_says_so_at_once(shared, worker, tmp_path):
    for number in range(RUNS_IN_ALL // 2):
        for _ in range(2):
            next(Page(shared, f"visitor {number}").start(prompt="slow", blocks=50))
    threads, folders = threading.active_count(), len(list(tmp_path.glob("2*")))
    late = Page(shared, "late")
    late.run(picture=str(tmp_path / "that is not even looked at.png"))
    assert late.problem.count("The queue is full: 20 videos are running or waiting.")
    assert threading.active_count() <= threads + 1
    assert len(list(tmp_path.glob("2*"))) == folders


def test_a_local_page_takes_as_many_runs_as_it_is_given(page, worker):
    for _ in range(30):
        next(page.start(prompt="slow", blocks=50))
    assert len(worker.jobs) == 30


def test_steering_needs_the_visitor_and_not_only_an_address(shared, worker):
    page, events = running(shared, "")
    asked = {"run": page.player["run"], "keys": ["w"]}
    for visitor in (None, "", "a stranger", shared.owner(page.player["visitor"]), page.request.session_hash):
        assert not page.steer({**asked, "visitor": visitor})
    assert not page.steer(asked)
    assert page.steer({**asked, "visitor": page.player["visitor"]})
    assert worker.held == [("w",)]
    events.close()


def test_only_the_newest_watcher_of_a_tab_goes_on(page):
    first = page.start(prompt="slow", blocks=3)
    while not page.run_id:
        page.see(next(first))
    running = page.run_id
    second = page.start(blocks=1)
    page.see(next(second))
    page.see(next(second))
    assert page.run_id == running, "what runs is shown, not what waits"
    assert len(page.shown[page.stage.queue]["jobs"]) == 1
    # The last message is sent twice, and must not overwrite what is shown.
    assert list(first) == [{page.ui.problem: gr.skip()}]
    page.watch(second)
    assert page.run_id != running
    assert page.shown[page.stage.queue]["jobs"] == []


def test_the_queue_is_changed_by_its_buttons(page, worker):
    events = page.start(prompt="slow", blocks=50)
    while not page.run_id:
        page.see(next(events))
    for blocks in (1, 2, 3):
        other = Page(page.manager)
        waiting = other.start(blocks=blocks)
        next(waiting)
        until(lambda n=blocks: len(page.manager.waiting("")) == n)
    page.press(page.runs.queue, id="", action="up")
    jobs = page.shown[page.stage.queue]["jobs"]
    assert [job["name"].rpartition(" · ")[2] for job in jobs] == ["1 block", "2 blocks", "3 blocks"]
    last = jobs[2]["id"]
    page.press(page.runs.queue, id=last, action="up")
    page.press(page.runs.queue, id=jobs[0]["id"], action="remove")
    until(lambda: len(page.manager.waiting("")) == 2)
    until(lambda: len(list(page.manager.outputs.glob("2*"))) == 3)  # nothing is left of what was removed
    assert [record.id for record in page.manager.waiting("")] == [last, jobs[1]["id"]]
    page.runs.stop(page.request, page.visitor, page.run_id)
    page.watch(events)
    assert [job.request.blocks for job in worker.begun] == [50, 3, 2]


def test_the_end_of_a_run_that_is_still_being_written_is_not_missed(page, worker, monkeypatch):
    written, join = Event(), mp4.join

    def slowly(segments, *rest):
        if len(segments) == 3:
            written.wait(10)
        return join(segments, *rest)

    monkeypatch.setattr(mp4, "join", slowly)
    events = page.start(prompt="slow", blocks=50)
    while not page.run_id:
        page.see(next(events))
    for blocks in (2, 3):
        next(Page(page.manager).start(blocks=blocks))
        until(lambda n=blocks: len(page.manager.waiting("")) == n - 1)
    page.manager.move(page.manager.waiting("")[1], -1)
    page.runs.stop(page.request, page.visitor, page.run_id)
    until(lambda: len(worker.begun) == 3 and not page.manager.waiting(""))
    # Both have left the worker: the one that came first is looked at first.
    assert page.manager.current("").run_spec.request.blocks == 3
    written.set()
    page.watch(events)
    records = sorted(page.manager.outputs.glob("2*/run.json"), reverse=True)
    assert [run["id"] for run in page.history] == [json.loads(file.read_text())["id"] for file in records]


@pytest.fixture
def advances(monkeypatch) -> dict[str, list[tuple[RunState, str]]]:
    """Every state of every run, by id, with the one that its folder names by then."""
    seen: dict[str, list[tuple[RunState, str]]] = {}
    advance = Record.advance

    def noted(record: Record, state: RunState) -> bool:
        file = record.presenter.folder.path / "run.json"
        written = json.loads(file.read_text())["state"] if file.exists() else "gone"
        advanced = advance(record, state)
        if advanced:
            seen.setdefault(record.id, []).append((state, written))
        return advanced

    monkeypatch.setattr(Record, "advance", noted)
    return seen


def test_the_folder_says_done_before_the_run_does(page, advances):
    page.run(blocks=1)
    first = [(RunState.RUNNING, "waiting"), (RunState.SAVING, "running"), (RunState.DONE, "done")]
    assert advances[page.run_id] == first
    page.watch(page.runs.extend(page.request, page.visitor, page.run_id, 1, ""))
    assert advances[page.run_id] == first * 2


@pytest.mark.parametrize("prompt", ["fail", "slow"])
def test_a_run_that_fails_or_is_stopped_is_saved_like_others(page, advances, prompt):
    for changes in page.start(prompt=prompt):
        page.see(changes)
        if prompt == "slow" and page.run_id and page.record.presenter.blocks and not page.record.stopping:
            page.manager.stop(page.record)
            page.manager.stop(page.record)
    stopping = [(RunState.STOPPING, "running")] if prompt == "slow" else []
    assert advances[page.run_id] == [
        (RunState.RUNNING, "waiting"),
        *stopping,
        (RunState.SAVING, "running"),
        (RunState.DONE, "done"),
    ]


def test_a_run_that_is_stopped_in_the_queue_is_gone_before_it_is_done(page, advances):
    events = page.start(prompt="slow")
    next(events)
    queued = page.manager.submit("", page.manager.current("").run_spec)
    page.manager.stop(queued)
    until(lambda: queued.ended)
    assert [state for state, _ in advances[queued.id]] == [RunState.STOPPING, RunState.SAVING, RunState.DONE]
    assert advances[queued.id][-1] == (RunState.DONE, "gone")
    page.manager.stop(page.manager.current(""))
    page.watch(events)


def test_a_run_that_has_ended_is_not_stopped(page, worker):
    page.run(blocks=1)
    page.manager.stop(page.record)
    assert page.record.ended
    assert worker.stopped == []


def test_a_failed_run_keeps_what_was_made(page):
    page.run(prompt="fail")
    assert page.status["kind"] == "error"
    assert "Out of memory in block 3" in page.status["text"]
    assert numbers(page.final()) == list(range(8))
    assert page.player["ended"]


def test_blocks_are_taken_back_put_back_and_gone_on_from(page, worker):
    page.run(blocks=4, path="w-20")
    page.see(page.runs.undo(page.request, page.visitor, page.run_id))
    page.see(page.runs.undo(page.request, page.visitor, page.run_id))
    assert "2 blocks left" in page.status["text"]
    assert numbers(page.final()) == list(range(8))
    assert page.player["run"].endswith(".3")
    page.see(page.runs.redo(page.request, page.visitor, page.run_id))
    assert numbers(page.final()) == list(range(12))
    assert page.shown[page.stage.redo].interactive is True
    page.watch(page.runs.extend(page.request, page.visitor, page.run_id, 2, "left-8"))
    job = worker.jobs[-1]
    assert (job.first_block, job.request.blocks, job.video) == (3, 5, page.run_id)
    assert [str(move) for move in job.request.moves] == ["w-11", "left-8"]
    assert numbers(page.final()) == list(range(20))
    assert page.player["start"] == pytest.approx(0.0)
    assert len(page.track["segments"]) == 3  # what was there in one, and two new ones
    assert page.shown[page.stage.redo].interactive is False
    kept = mp4.read_settings(page.final())
    assert (kept["blocks"], kept["made"]["blocks"], kept["walked"]) == (5, 5, "w-11, left-8")


def test_the_last_block_is_made_again_from_other_noise(page, worker):
    page.run(blocks=3, path="w-20")
    before = list(mp4.decode(page.final()))
    page.watch(page.runs.retake(page.request, page.visitor, page.run_id))
    job = worker.jobs[-1]
    assert (job.first_block, job.request.blocks) == (2, 3)
    ((block, seed),) = job.request.reseeds
    assert block == 2
    assert [str(move) for move in job.request.moves] == ["w-11"]
    after = list(mp4.decode(page.final()))
    assert len(after) == 12
    assert all(np.array_equal(one, two) for one, two in zip(before[:8], after[:8], strict=True))
    page.again()
    assert worker.jobs[-1].request.reseeds == ((2, seed),)


@pytest.mark.parametrize(
    ("more", "path", "words"),
    [(500, "", "makes 1 to 120 blocks"), (2, "fly-3", "is not a key"), (-1, "", "one block or more")],
)
def test_what_cannot_be_gone_on_with_is_said_and_changes_nothing(page, worker, more, path, words):
    page.run(blocks=1)
    page.watch(page.runs.extend(page.request, page.visitor, page.run_id, more, path))
    assert words in page.problem
    assert len(worker.jobs) == 1
    assert page.record.ended


def test_what_cannot_be_done_clears_nothing(page):
    """Gradio empties every output of a generator that yields nothing, and stumbles over an empty dict."""
    page.run(blocks=2)
    shown = page.shown[page.stage.history]
    told = [
        *(
            page.runs.history(
                page.request, SimpleNamespace(id="gone", action=action), page.visitor, "", shown
            )
            for action in ("show", "again", "recall", "delete", "?")
        ),
        page.runs.retake(page.request, page.visitor, "gone"),
        page.runs.extend(page.request, page.visitor, "gone", 4, ""),
        page.runs.watch(page.request, page.visitor),
        [page.runs.example(page.request, SimpleNamespace(name="?"), page.visitor)],
        [page.runs.again(page.request, page.visitor, "gone")],
    ]
    for messages in map(list, told):
        assert messages and all(messages)


def test_steering_is_told_and_its_way_written_down(page, worker):
    worker.moves = [CameraMove(("w",)), CameraMove(("w", "left"))]
    page.run(blocks=3, path="right-40, left-40")
    assert page.player["steerable"] is False
    kept = mp4.read_settings(page.final())
    assert kept["steered"] is True
    assert kept["walked"] == "w-3, w+left-4, right-4"
    assert page.track["figure"] == "", "where it went instead, nothing is seen again"
    page.press(page.runs.history, id=page.run_id, action="again")
    assert str(worker.jobs[-1].request.moves[1]) == "w+left-4"


def test_keys_reach_the_run(page, worker):
    events = page.start(prompt="slow", blocks=2)
    while not page.run_id:
        page.see(next(events))
    assert page.player["steerable"] is True
    assert page.steer({"run": page.player["run"], "keys": ["w", "left"]})
    assert not page.steer({"run": page.player["run"], "keys": "w"})
    assert not page.steer({"run": page.player["run"], "keys": ["fly"]})
    assert not page.steer({"run": "another.1", "keys": ["w"]})
    page.watch(events)
    assert worker.held == [("w", "left")]
    assert not page.steer({"run": page.player["run"], "keys": []})


def test_same_again(page, worker, tmp_path):
    Image.new("RGB", (64, 40), "red").save(tmp_path / "a.png")
    page.run(
        blocks=2, path="w-3", memory="compare", sides=["BF16", "RTN INT2"], picture=str(tmp_path / "a.png")
    )
    page.again()
    first, second = worker.jobs
    assert second.sides == first.sides
    assert np.array_equal(second.request.image, first.request.image)
    assert (second.request.seed, second.request.moves) == (first.request.seed, first.request.moves)
    assert page.shown[page.ui.path] == "w-3"
    assert page.shown[page.ui.sides].value == ["BF16", "RTN INT2"]


def test_one_click_examples_run(page, worker):
    page.press(page.runs.example, name="Who remembers?")
    assert [side.policy.window for side in worker.jobs[0].sides] == [5, None]
    bf16, qvg = page.player["tracks"]
    assert "drops frames from frame 25 on" in bf16["note"]
    assert all(track["figure"].startswith("seen again: ") for track in (bf16, qvg))
    assert page.shown[page.ui.budget] == 23
    page.press(page.runs.example, name="nothing of ours")
    assert len(worker.jobs) == 1


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
    assert not page.track["segments"]


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
    assert words in page.problem
    assert worker.jobs == []
    assert set(page.shown) == {page.ui.problem}


def test_a_bad_picture_is_a_sentence(page, worker, tmp_path):
    (tmp_path / "a.png").touch()
    page.run(picture=str(tmp_path / "a.png"))
    assert "empty" in page.problem
    assert worker.jobs == []


def test_words_of_the_user_stay_as_they_are_until_a_template_escapes_them(page):
    page.run(path="<img src=x onerror=alert(1)>-2")
    assert "<img" in page.problem
    page.run(prompt="<b>instant & co", blocks=1)
    assert page.history[0]["name"] == "<b>instant & co"


def test_a_full_disk_leaves_a_video_in_the_page(page, monkeypatch):
    def full(*_args: Any, **_kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "mkdir", full)
    page.run(blocks=2)
    assert page.status["kind"] == "done"
    assert "the disk is full" in page.status["notes"][-1]
    assert all(address.startswith("data:video/mp4;base64,") for address in page.track["segments"])
    assert page.track["final"].startswith("data:video/mp4;base64,")
    page.watch(page.runs.export_json(page.request, page.visitor, page.run_id))
    assert "could not be saved" in page.problem


def test_a_video_that_cannot_be_put_together_is_said_and_its_blocks_stay(page, monkeypatch):
    monkeypatch.setattr(mp4, "join", lambda *_: 1 / 0)
    page.run(blocks=2)
    assert page.status["kind"] == "done"
    assert "no file could be made" in page.status["notes"][-1]
    assert len(page.track["segments"]) == 2
    assert page.track["final"] is None


def test_a_closed_worker_is_a_sentence(tmp_path):
    class Closed(FakeWorker):
        def submit(self, job):
            raise RuntimeError("this worker is closed")

    page = Page(RunManager(Closed(), tmp_path))
    page.run()
    assert "restart the program" in page.problem


def test_an_error_of_ours_is_a_sentence_and_stops_the_run(page, worker, monkeypatch):
    monkeypatch.setattr(mp4, "encode_segment", lambda *_: 1 / 0)
    page.run()
    assert page.status["kind"] == "error"
    assert "Traceback" not in page.status["text"]
    assert worker.stopped


def test_an_export_has_every_side_its_name_and_every_figure(page, tmp_path):
    page.run(memory="compare", sides=["BF16", "QVG INT2"], blocks=2)
    for kind, do in (
        ("mp4", page.runs.export_video),
        ("gif", page.runs.export_gif),
        ("webp", page.runs.export_webp),
        ("json", page.runs.export_json),
    ):
        page.watch(do(page.request, page.visitor, page.run_id))
        assert page.problem == ""
        saved = page.shown[page.stage.saved]
        assert saved["name"].endswith(f"-side-by-side.{kind}")
    folder = page.final().parent / "export"
    (video,) = folder.glob("*.mp4")
    frames = list(mp4.decode(video))
    assert len(frames) == 8
    height, width, _ = frames[0].shape
    assert width == 2 * 320 + 8
    assert height > 183
    assert mp4.read_settings(video)["made"]["sides"][1]["codec"] == "QVG INT2"
    # The pictures of both sides are in it, enlarged; above them is light text on a dark strip.
    picture = frames[5][height - 182 :, :320]
    first = next(frame for index, frame in enumerate(mp4.decode(page.final(0))) if index == 5)
    again = np.asarray(Image.fromarray(first).resize((320, 183), Image.Resampling.LANCZOS))[1:]
    assert np.abs(picture.astype(int) - again).mean() < 3
    strip = frames[0][: height - 183]
    assert strip[:, :320].max() > 200
    assert strip[:, 330:].max() > 200
    (gif,) = folder.glob("*.gif")
    with Image.open(gif) as opened:
        assert opened.n_frames == 8
    for kept in (json.loads(next(folder.glob("*.json")).read_text()), mp4.read_settings(video)):
        assert not {"id", "owner", "order"} & set(kept)
        assert page.run_id not in json.dumps(kept)
    (told,) = folder.glob("*.json")
    assert json.loads(told.read_text())["sides"][1]["codec_settings"]["clusters"] == 64
    # An export is no side of the run.
    page.press(page.runs.history, id=page.run_id, action="show")
    assert len(page.player["tracks"]) == 2
