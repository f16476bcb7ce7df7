"""What a public page deletes of its own accord, and what it never does."""

import errno
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.ui.fake_worker import FakeWorker
from tests.ui.page import Page
from ui.runs import retention
from ui.runs.folder import RunFolder
from ui.runs.manager import RunManager
from ui.runs.retention import Limits, Retention, folder_bytes
from ui.runs.run_index import Entry, RunIndex

HOUR, MIB = 3600.0, 1 << 20


def made(
    outputs: Path, run_id: str, hours: float, mib: float = 1, owner: str = "a", state: str = "done"
) -> Path:
    """A run's folder, last written so many hours ago."""
    folder = RunFolder(outputs / f"2026-01-01-{100_000 - round(100 * hours):06d}-000-{run_id}")
    folder.record({"id": run_id, "owner": owner, "state": state, "order": 1.0})
    folder.release()
    with (folder.path / "video.mp4").open("wb") as file:
        file.truncate(int(mib * MIB))
    at = time.time() - hours * HOUR
    os.utime(folder.path / "run.json", (at, at))
    return folder.path


def kept(outputs: Path) -> set[str]:
    return {past.id for past in RunIndex(outputs).newest(None)}


def shared(outputs: Path, hours: float = 24, gib: float = 0) -> RunManager:
    manager = RunManager(FakeWorker(block_seconds=0.0), outputs, limits=Limits(hours, gib))
    manager.shared = True
    return manager


def test_what_is_too_old_goes_at_the_start_and_after_each_run(tmp_path):
    made(tmp_path, "old", 25)
    made(tmp_path, "young", 23)
    page = Page(shared(tmp_path))
    page.watch(page.runs.arrive(page.request, page.visitor))
    assert kept(tmp_path) == {"young"}
    made(tmp_path, "older", 30)
    page.run(blocks=1)
    assert kept(tmp_path) >= {"young", page.run_id}
    deadline = time.monotonic() + 10
    while "older" in kept(tmp_path):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_oldest_go_until_the_rest_has_room(tmp_path):
    for number in range(6):
        made(tmp_path, f"run{number}", 6 - number, mib=2)
    shared(tmp_path, hours=0, gib=7 / 1024).tidy()
    assert kept(tmp_path) == {"run3", "run4", "run5"}


def test_a_run_that_stays_takes_room_from_the_others(tmp_path):
    (tmp_path / "notes").mkdir()
    made(tmp_path, "waits", 9, mib=5, state="waiting")
    made(tmp_path, "oldest", 8, mib=2)
    made(tmp_path, "newest", 7, mib=2)
    shared(tmp_path, hours=0, gib=8 / 1024).tidy()
    assert kept(tmp_path) == {"waits", "newest"}
    assert (tmp_path / "notes").exists()


@pytest.mark.parametrize("limits", [(24, 0), (0, 1e-6), (24, 8)])
def test_a_local_page_deletes_nothing(tmp_path, limits):
    made(tmp_path, "old", 1000)
    manager = shared(tmp_path, *limits)
    manager.shared = False
    manager.open()
    assert kept(tmp_path) == {"old"}
    assert manager.kept_for == ""


def test_no_limits_no_deletion(tmp_path):
    made(tmp_path, "old", 100_000, mib=3000)
    manager = shared(tmp_path, hours=0, gib=0)
    manager.open()
    assert kept(tmp_path) == {"old"}
    assert manager.kept_for == ""


@pytest.mark.parametrize("state", ["waiting", "running"])
def test_what_has_not_ended_stays(tmp_path, state):
    made(tmp_path, "run", 100, state=state)
    shared(tmp_path, hours=1, gib=1e-6).tidy()
    assert kept(tmp_path) == {"run"}


def test_what_runs_waits_or_is_watched_stays_though_its_record_is_old(tmp_path, monkeypatch):
    manager = shared(tmp_path, hours=1, gib=1e-9)
    pages = [Page(manager, f"visitor {number}") for number in range(3)]
    pages[0].run(blocks=1)
    ended = pages[0].run_id
    # It has been looked at; now its page waits for another one.
    streams = [page.start(prompt="slow", blocks=50) for page in pages[:2]]
    for page, events in zip(pages, streams, strict=False):
        while not page.shown.get(page.stage.run_id) or page.run_id == ended:
            page.see(next(events))
    for record in tmp_path.glob("2*/run.json"):
        os.utime(record, (1, 1))
    monkeypatch.setattr(retention, "GRACE_S", 0.0)
    manager.tidy()
    assert kept(tmp_path) == {ended, pages[0].run_id, pages[1].run_id}
    for events in streams:
        events.close()
    for record in list(manager._records.values()):
        if not record.ended:
            manager.stop(record)


def test_what_another_program_has_stays(tmp_path):
    folder = RunFolder(made(tmp_path, "theirs", 100))
    assert folder.hold()
    made(tmp_path, "nobody's", 100)
    shared(tmp_path).tidy()
    assert kept(tmp_path) == {"theirs"}
    folder.release()
    shared(tmp_path).tidy()
    assert kept(tmp_path) == set()


def test_what_is_exported_or_shown_stays_a_while(tmp_path):
    now = time.time()
    keeper = Retention(Limits(24, 0), clock=lambda: now)
    made(tmp_path, "old", 100)
    index = RunIndex(tmp_path)
    (entry,) = index.entries()

    def over() -> list[Entry]:
        return keeper.over(index.entries(), lambda _: True)

    with keeper.exporting(entry.folder):
        now += 10 * HOUR
        assert over() == []
    assert over() == [], "the browser fetches it now"
    now += retention.GRACE_S
    assert over() == [entry]
    keeper.use(entry.folder)
    assert over() == []


def test_a_run_that_is_exported_meanwhile_is_not_deleted(tmp_path, monkeypatch):
    manager = shared(tmp_path)
    made(tmp_path, "old", 100, owner=manager.owner("her"))
    her = Page(manager, "her")
    for _ in her.runs.export_json(her.request, "her", "old"):
        manager.tidy()
        assert kept(tmp_path) == {"old"}
    manager.tidy()
    assert kept(tmp_path) == {"old"}
    assert her.problem == ""


def test_what_is_not_a_run_is_left_alone(tmp_path):
    for name, content in (("a", "{"), ("b", "[]"), ("c", "{}")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "run.json").write_text(content)
        os.utime(tmp_path / name / "run.json", (1, 1))
    (tmp_path / "d").mkdir()
    (tmp_path / "e.txt").write_text("x")
    shared(tmp_path, hours=1, gib=1e-9).tidy()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c", "d", "e.txt"]


def test_a_folder_that_cannot_be_removed_keeps_nothing_else(tmp_path, monkeypatch, caplog):
    bad = made(tmp_path, "first", 100)
    made(tmp_path, "second", 90)
    remove = shutil.rmtree

    def rmtree(path, **kwargs):
        if path == bad:
            raise OSError(errno.EACCES, "Permission denied")
        remove(path, **kwargs)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    shared(tmp_path).tidy()
    assert kept(tmp_path) == {"first"}
    assert "could not be removed" in caplog.text


def test_sizes_are_looked_up_once_and_anew_after_an_export(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        retention, "folder_bytes", lambda folder: asked.append(folder) or folder_bytes(folder)
    )
    now = time.time()
    keeper = Retention(Limits(0, 1), clock=lambda: now)
    for number in range(5):
        made(tmp_path, f"run{number}", 5)
    runs = RunIndex(tmp_path).entries()
    for _ in range(3):
        assert keeper.over(runs, lambda _: True) == []
    assert len(asked) == 5
    with keeper.exporting(runs[0].folder):
        pass
    keeper.over(runs, lambda _: True)
    assert asked[5:] == [runs[0].folder]


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (
            (24, 8),
            "Videos are deleted after 24 hours, the oldest sooner when all of them take more than 8 GiB.",
        ),
        ((1, 0), "Videos are deleted after 1 hour."),
        ((0, 20), "The oldest videos are deleted when all of them take more than 20 GiB."),
        ((0, 0), ""),
    ],
)
def test_the_page_says_it_beside_the_history(tmp_path, limits, said):
    page = Page(shared(tmp_path, *limits))
    page.watch(page.runs.arrive(page.request, page.visitor))
    assert page.shown[page.stage.history]["note"] == said
    page.manager.shared = False
    page.watch(page.runs.arrive(page.request, page.visitor))
    assert page.shown[page.stage.history]["note"] == ""


def test_a_disk_that_is_nearly_full_is_said_and_nothing_is_lost(tmp_path, monkeypatch):
    page = Page(RunManager(FakeWorker(block_seconds=0.0), tmp_path / "not there yet"))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=300 * MIB))
    page.run(blocks=1)
    assert "Only 300.0 MiB are free" in page.problem
    assert page.final().exists()
    monkeypatch.undo()
    page.run(blocks=1)
    assert page.problem == "" or usage.free < 1 << 30
