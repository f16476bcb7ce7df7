"""The report behind the device's name: on a click, once, and shorter for strangers."""

from __future__ import annotations

from pathlib import Path

import pytest

from backends.checkup import Part
from backends.runtime.worker import Worker
from tests.ui.fake_worker import FakeWorker
from ui.events import machine
from ui.page import build

OUTPUTS = Path("outputs")
PARTS = [
    Part("software", "Software", ("Python 3.13.",)),
    Part("device", "Device", ("Computes on <b>Card</b> & Co.",)),
    Part("memory", "Memory and disk", ("5 GB are free on the disk of /home/someone.",), works=False),
]


class Reporting:
    def __init__(self) -> None:
        self.asked: list[Path] = []

    def about(self, outputs: Path) -> list[Part]:
        self.asked.append(outputs)
        return PARTS


def test_it_is_made_when_it_is_asked_for_and_kept_a_while() -> None:
    worker, now = Reporting(), [0.0]
    here = machine.Machine(worker, OUTPUTS, clock=lambda: now[0])
    assert worker.asked == []
    shown = here.look()
    assert here.look() == shown and worker.asked == [OUTPUTS]
    now[0] = machine.KEEP_S + 1
    assert here.look() == shown and len(worker.asked) == 2


def test_it_is_plain_text_and_what_does_not_work_is_marked() -> None:
    parts = machine.Machine(Reporting(), OUTPUTS).look()["parts"]
    assert [part["title"] for part in parts] == ["Software", "Device", "Memory and disk"]
    assert parts[1]["sentences"] == ["Computes on <b>Card</b> & Co."]
    assert [part["bad"] for part in parts] == [False, False, True]


def test_strangers_are_told_no_folders() -> None:
    parts = machine.Machine(Reporting(), OUTPUTS, locked=lambda: True).look()["parts"]
    assert [part["title"] for part in parts] == ["Software", "Device"]


def test_a_worker_that_cannot_tell_is_a_sentence() -> None:
    (part,) = machine.Machine(FakeWorker(), OUTPUTS).look()["parts"]
    assert "python app.py --check" in part["sentences"][0]


def test_the_worker_looks_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("backends.checkup.elsewhere", lambda *given: asked.append(given) or PARTS)
    parts = machine.Machine(Worker("cpu"), OUTPUTS).look()["parts"]
    assert len(parts) == 3 and asked == [("cpu", OUTPUTS)]


def test_the_page_has_it_and_does_not_ask_by_itself(tmp_path: Path) -> None:
    page = build(FakeWorker(), tmp_path)
    (found,) = [block for block in page.blocks.values() if getattr(block, "elem_id", None) == "machine"]
    assert found.value == machine.view(())
