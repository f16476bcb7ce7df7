"""Honest visitors beside one client that floods the page, and the memory of the page after many runs."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.browser.conftest import free_port, serve
from tests.soak.conftest import FULL, Tell
from tests.soak.managers import rss_mib
from tests.soak.programs import ROOT

RUNS, SETTLED = (350, 50) if FULL else (4, 2)
GROWTH_MIB = 10.0
CALL = ["pocket", "instant", "BF16", 1, 1, "", None, None, "", "", 0, "drop", False, None, ""]
VISITORS, AT_ONCE, SECONDS = (50, 20, 60.0) if FULL else (3, 4, 0.5)


@pytest.fixture
def page(tmp_path: Path) -> Iterator[str]:
    """The page of a Space, on a worker without a model: what is measured is the page."""
    port = free_port()
    command = ["-m", "tests.browser.fake_app", str(port), str(tmp_path / "outputs")]
    yield from serve(command, port, tmp_path / "log.txt", SPACE_ID="owner/studio")


def clients(what: str, address: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.soak.visitors", what, address, str(count), str(SECONDS)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def answer(process: subprocess.Popen[str]) -> dict[str, list[float]]:
    said, _ = process.communicate(timeout=600)
    assert process.returncode == 0
    return json.loads(said)


def test_honest_visitors_beside_a_flooder(page: str, tmp_path: Path, tell: Tell):
    alone = answer(clients("visit", page, VISITORS))
    flooder = clients("flood", page, AT_ONCE)
    beside = answer(clients("visit", page, VISITORS))
    asked = len(answer(flooder)["asked"])
    figures = {
        step: " and ".join(
            f"{statistics.median(times[step]):.2f} s median, {_late(times[step]):.2f} s of 95 %"
            for times in (alone, beside)
        )
        for step in alone
    }
    tell("honest visitors alone and beside a flooder", visitors=VISITORS, floods=asked, **figures)
    assert asked and all(len(beside[step]) >= VISITORS for step in beside), "all were served"
    assert "Traceback" not in (tmp_path / "log.txt").read_text()


def test_the_page_does_not_grow(page: str, tell: Tell):
    """Objects are counted in tests/ui/server/test_sessions.py."""
    children = [each for each in psutil.Process().children() if each.status() != psutil.STATUS_ZOMBIE]
    server = next(each.pid for each in children if "tests.browser.fake_app" in each.cmdline())
    settled = 0.0
    with httpx.Client(base_url=f"{page}gradio_api/call/", timeout=60) as client:
        for number in range(1, RUNS + 1):
            asked = client.post("generate", json={"data": CALL}).json()
            assert "event: complete" in client.get(f"generate/{asked['event_id']}").text
            if number == SETTLED:
                settled = rss_mib(server)
    growth = rss_mib(server) - settled
    tell("short runs", after=SETTLED, further=RUNS - SETTLED, page_memory=f"{growth:+.1f} MiB")
    if FULL:
        assert growth < GROWTH_MIB


def _late(seconds: list[float]) -> float:
    return sorted(seconds)[int(0.95 * (len(seconds) - 1))]
