"""The index of the outputs folder: what it finds, what it notices, and how little it reads for that."""

import json
import shutil
from pathlib import Path

import pytest

from tests.ui.fake_worker import FakeWorker
from tests.ui.page import Page
from ui.runs import run_index
from ui.runs.manager import RunManager
from ui.runs.run_index import RunIndex


def write(outputs: Path, number: int, **changed) -> Path:
    folder = outputs / f"2026-01-01-{number:06d}-000-run{number}"
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"id": f"run{number}", "owner": f"owner{number % 5}", "state": "done", "order": 1.0, **changed}
    # As `RunFolder.record` writes it.
    (folder / ".run.json").write_text(json.dumps(settings))
    (folder / ".run.json").replace(folder / "run.json")
    return folder


@pytest.fixture
def reads(monkeypatch) -> list[Path]:
    """Folders whose records were read."""
    read_record, found = run_index.read_record, []

    def counted(folder):
        found.append(folder)
        return read_record(folder)

    monkeypatch.setattr(run_index, "read_record", counted)
    return found


def ids(index: RunIndex, **wanted) -> list[str]:
    return [past.id for past in index.newest(**{"most": None, **wanted})]


def test_the_newest_first_of_one_owner_or_of_all(tmp_path):
    for number in range(12):
        write(tmp_path, number)
    index = RunIndex(tmp_path)
    assert ids(index, most=3) == ["run11", "run10", "run9"]
    assert ids(index, owner="owner1") == ["run11", "run6", "run1"]
    assert ids(index, owner="a stranger") == []
    assert ids(index, most=0) == []
    assert index.find("owner1", "run6").folder.name.endswith("run6")
    assert index.find("owner2", "run6") is None
    assert index.find("owner1", "gone") is None


@pytest.mark.parametrize("runs", [20, 200])
def test_a_look_reads_what_it_shows_however_many_runs_there_are(tmp_path, reads, runs):
    """Of the page, too: lists, for a stranger, to the form, again, export and delete."""
    worker = FakeWorker(block_seconds=0.0)
    mine = Page(RunManager(worker, tmp_path))
    mine.run(blocks=1)
    mine.manager._forget_old()
    own = json.loads((mine.final().parent / "run.json").read_text())
    for number in range(runs):
        write(tmp_path, number, **{**own, "id": f"run{number}", "owner": ""})
    manager = RunManager(worker, tmp_path)
    page = Page(manager)
    manager.open()
    assert len(reads) >= runs

    def cost(do) -> int:
        reads.clear()
        do()
        return len(reads)

    shown = 13  # and one to know whether there are more
    assert cost(lambda: page.runs._lists("", "")) <= shown
    assert cost(lambda: page.runs._lists("a stranger", "")) == 0
    assert cost(lambda: page.press(page.runs.history, id="run5", action="recall")) <= 2
    assert cost(lambda: page.press(page.runs.history, id="run5", action="show")) <= shown + 2
    export = page.runs.export_json
    assert cost(lambda: page.watch(export(page.request, page.visitor, "run5"))) <= 2
    assert cost(lambda: manager.forget("", "run5")) <= 2
    assert cost(lambda: page.press(page.runs.history, id="run6", action="again")) <= 2 * shown + 10
    assert not (tmp_path / "2026-01-01-000005-000-run5").exists()


def test_what_others_write_and_remove_is_noticed(tmp_path, reads):
    index = RunIndex(tmp_path / "outputs")
    assert index.newest(None) == []
    first = write(tmp_path / "outputs", 1)
    assert ids(index) == ["run1"]
    second = write(tmp_path / "outputs", 2, state="waiting")
    assert ids(index, state="done") == ["run1"]
    write(tmp_path / "outputs", 2, state="running")
    assert ids(index, state="running") == ["run2"]
    write(tmp_path / "outputs", 2)
    assert ids(index, state="done") == ["run2", "run1"]
    # A run that was done goes on, or becomes someone else's.
    write(tmp_path / "outputs", 1, state="running")
    assert ids(index, state="done") == ["run2"]
    write(tmp_path / "outputs", 2, owner="another")
    assert index.find("owner2", "run2") is None
    assert ids(index, owner="another") == ["run2"]
    shutil.rmtree(second)
    assert ids(index) == ["run1"]
    reads.clear()
    assert index.newest(None, owner="nobody") == []
    assert reads == []
    shutil.rmtree(first.parent)
    assert index.newest(None) == []
    assert index.entries() == []


def test_a_folder_may_come_before_its_record(tmp_path):
    index = RunIndex(tmp_path)
    (tmp_path / "2026-01-01-000001-000-run1").mkdir()
    assert index.entries() == []
    write(tmp_path, 1)
    assert ids(index) == ["run1"]


def test_damaged_records_and_what_else_lies_there(tmp_path, reads):
    index = RunIndex(tmp_path)
    whole, cut_off = write(tmp_path, 1), write(tmp_path, 2)
    (cut_off / "run.json").write_text('{"id":')
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "2027-a" / "run.json").mkdir(parents=True)
    (tmp_path / "broken link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "linked").symlink_to(whole)
    assert ids(index) == ["run1", "run1"]
    assert [entry.folder.name for entry in index.entries()] == ["linked", whole.name]
    reads.clear()
    assert len(index.entries()) == 2
    assert reads == [], "what is damaged is read once"
    write(tmp_path, 2)
    assert ids(index, owner="owner2") == ["run2"]
    # A record that is damaged once it is known.
    (cut_off / "run.json").write_text("[]")
    assert ids(index, owner="owner2") == []
    assert ids(index) == ["run1", "run1"]


def test_a_record_without_names_is_a_run_without_names(tmp_path):
    write(tmp_path, 1, id=None, owner=["x"], state=7)
    (entry,) = RunIndex(tmp_path).entries()
    assert (entry.id, entry.owner, entry.state) == ("None", "['x']", "7")


def test_a_file_in_place_of_the_folder_holds_no_runs(tmp_path):
    (tmp_path / "outputs").write_text("a file")
    assert RunIndex(tmp_path / "outputs").newest(None) == []


def test_outputs_that_are_a_link(tmp_path):
    write(tmp_path / "disk", 1)
    (tmp_path / "outputs").symlink_to(tmp_path / "disk")
    assert ids(RunIndex(tmp_path / "outputs")) == ["run1"]
