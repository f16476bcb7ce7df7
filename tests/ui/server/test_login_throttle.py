"""How long a login waits after wrong passwords, by a clock of the test's own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.ui.coroutines import run
from ui.server import login_throttle
from ui.server.login_throttle import LoginThrottle


class Door:
    """A page that takes one password, behind the throttle; `waits` are the seconds that attempts waited."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.waits: list[float] = []
        self.asked = 0
        self._now = 0.0
        monkeypatch.setattr(login_throttle, "sleep", self._sleep)
        monkeypatch.setattr(login_throttle.time, "monotonic", lambda: self._now)
        self._throttle = LoginThrottle(self._page)

    def pass_time(self, seconds: float) -> None:
        self._now += seconds

    async def attempt(self, password: str, address: str = "a", path: str = "/login") -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "method": "POST",
            "path": path,
            "client": (address, 1),
            "password": password,
            "headers": [],
        }
        await self._throttle(scope, None, send)  # type: ignore[arg-type]
        return sent[0]["status"]

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0)

    async def _page(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        status = 200 if scope["password"] == "right" else 400
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Door:
    return Door(monkeypatch)


def test_each_wrong_password_makes_the_next_one_wait_longer(door):
    async def guess() -> None:
        for _ in range(9):
            assert await door.attempt("wrong", path="/login/") == 400
        assert await door.attempt("right", address="b") == 200
        assert await door.attempt("wrong", path="/gradio_api/upload") == 400

    run(guess())
    assert door.waits == [1, 2, 4, 8, 8]


def test_it_is_forgotten_after_a_while(door):
    async def guess() -> None:
        for _ in range(5):
            await door.attempt("wrong")
        door.pass_time(3600)
        door.waits.clear()
        await door.attempt("wrong")

    run(guess())
    assert door.waits == []


def test_a_success_of_another_behind_the_same_address_frees_no_guesses(door):
    async def guess() -> None:
        for _ in range(6):
            await door.attempt("wrong")
        assert await door.attempt("right") == 200
        door.waits.clear()
        await door.attempt("wrong")

    run(guess())
    assert door.waits == [4]


def test_guesses_at_once_wait_for_each_other_and_many_are_refused(door):
    async def guess() -> list[int]:
        return await asyncio.gather(*(door.attempt("wrong") for _ in range(60)))

    answers = run(guess())
    assert sorted(answers) == [400] * door.asked + [429] * (60 - door.asked)
    assert door.asked <= 8


def test_it_remembers_no_more_than_so_many(door):
    async def guess() -> None:
        for number in range(2000):
            await door.attempt("wrong", address=str(number))

    run(guess())
    assert len(door._throttle._addresses) == 1000
