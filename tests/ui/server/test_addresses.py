"""Whose address a request has: through proxies, and whatever a client writes of itself."""

from __future__ import annotations

from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.ui.fake_worker import FakeWorker
from tests.ui.page import Page
from ui.runs.manager import RunManager
from ui.server.addresses import client_address


@pytest.mark.parametrize(
    ("connected", "forwarded", "address"),
    [
        ("8.8.8.8", "", "8.8.8.8"),
        ("8.8.8.8", "9.9.9.9", "8.8.8.8"),
        ("10.0.0.3", "", "10.0.0.3"),
        ("10.0.0.3", "9.9.9.9", "9.9.9.9"),
        ("10.0.0.3", "1.1.1.1, 9.9.9.9, 10.20.0.1", "9.9.9.9"),
        ("10.0.0.3", "invented, 9.9.9.9", "9.9.9.9"),
        ("10.0.0.3", "invented", "10.0.0.3"),
        ("", "", ""),
        ("testclient", "", "testclient"),
        ("2606:4700:1:2:3:4:5:6", "", "2606:4700:1:2::/64"),
        ("2606:4700:1:2::ffff", "", "2606:4700:1:2::/64"),
        ("127.0.0.1", "2606:4700:1:2::9", "2606:4700:1:2::/64"),
    ],
)
def test_proxies_are_seen_through(connected, forwarded, address):
    assert client_address(connected, {"x-forwarded-for": forwarded} if forwarded else {}) == address


def test_one_address_with_invented_names_leaves_room_for_others(tmp_path: Path):
    manager = RunManager(FakeWorker(block_seconds=60), tmp_path)
    manager.shared = True
    numbers = count()

    def come(address: str) -> str:
        page = Page(manager, f"name {next(numbers)}")
        page.request = SimpleNamespace(
            session_hash=page.visitor,
            client=SimpleNamespace(host="10.0.0.3"),
            headers={"x-forwarded-for": f"{page.visitor}, {address}"},
        )
        events = page.start(blocks=2, prompt="slow")
        page.see(next(events))
        events.close()
        return page.problem

    said = [come("9.9.9.9") for _ in range(20)]
    assert said[:6] == [""] * 6
    assert [each for each in said[6:] if "of your network address" not in each] == []
    assert come("8.8.8.8") == ""
    for record in list(manager._records.values()):
        manager.stop(record)
