"""Visitors to a page without a browser: they send and read what its scripts do, over the same routes.

`python -m tests.soak.visitors visit ADDRESS COUNT SECONDS` is that many visitors for so long, each with an
address of its own, in a process of their own; it prints the seconds that their steps took, as JSON. With
`flood` it is one client that has as many requests under way at a time.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx

API = "gradio_api/"
PAUSE_S = 4.0  # between two things that a visitor does
STEPS = ("page", "arrive", "generate")


class Visitor:
    """A tab of a browser of its own. `config` is the page's."""

    def __init__(self, client: httpx.AsyncClient, config: dict[str, Any]) -> None:
        self.name = secrets.token_urlsafe(16)
        self.session = secrets.token_hex(5)
        self._client = client
        self._config = config
        self._props = {each["id"]: each["props"] for each in config["components"]}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Holds the connection that a tab holds while it is open."""
        beats = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            beats.cancel()
            with suppress(asyncio.CancelledError):
                await beats

    async def _beat(self) -> None:
        async with self._client.stream("GET", f"{API}heartbeat/{self.session}") as answer:
            async for _ in answer.aiter_lines():
                pass

    async def ask(self, name: str, **values: Any) -> httpx.Response:
        """Puts a listener into the queue. `values` are inputs by elem_id; others are as built."""
        listener = self._listener(name)
        data = [self._value(each, values) for each in listener["inputs"]]
        body = {"data": data, "fn_index": listener["id"], "session_hash": self.session}
        return await self._client.post(f"{API}queue/join", json=body)

    async def messages(self) -> AsyncIterator[dict[str, Any]]:
        """What the queue says to this tab, until it has nothing left to say."""
        async with self._client.stream("GET", f"{API}queue/data?session_hash={self.session}") as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data:"):
                    yield json.loads(line[5:])

    async def call(self, name: str, **values: Any) -> list[dict[str, Any]]:
        """Asks for something and reads all of the answer."""
        (await self.ask(name, **values)).raise_for_status()
        return [message async for message in self.messages()]

    async def first(self, name: str, **values: Any) -> float:
        """Returns the seconds until the first answer of a listener, and leaves."""
        began = time.monotonic()
        (await self.ask(name, **values)).raise_for_status()
        async for message in self.messages():
            if message["msg"] in ("process_generating", "process_completed"):
                break
        return time.monotonic() - began

    def _listener(self, name: str) -> dict[str, Any]:
        return next(each for each in self._config["dependencies"] if each["api_name"] == name)

    def _value(self, component: int, values: dict[str, Any]) -> Any:
        props = self._props[component]
        if props.get("storage_key"):
            return self.name
        return values.get(props.get("elem_id") or "", props.get("value"))


async def config_of(client: httpx.AsyncClient) -> dict[str, Any]:
    return (await client.get("config")).raise_for_status().json()


async def _visit(
    client: httpx.AsyncClient, config: dict[str, Any], until: float, times: dict[str, list[float]]
) -> None:
    """Opens the page, starts a video, looks at its first moment and leaves: once, and until time is up."""
    times_up = False
    while not times_up:
        visitor = Visitor(client, config)
        began = time.monotonic()
        (await client.get("")).raise_for_status()
        times["page"].append(time.monotonic() - began)
        async with visitor.open():
            times["arrive"].append(await visitor.first("arrive"))
            times["generate"].append(await visitor.first("generate_1", prompt="instant"))
            times_up = time.monotonic() >= until
            if not times_up:
                await asyncio.sleep(PAUSE_S)


async def _flood(client: httpx.AsyncClient, config: dict[str, Any], until: float, asked: list[float]) -> None:
    """Asks for pages and long videos, as names of its own, and reads none of the answers."""
    while time.monotonic() < until:
        visitor = Visitor(client, config)
        with suppress(httpx.HTTPError):
            await client.get("")
            await visitor.ask("arrive")
            await visitor.ask("generate_1", prompt="slow")
        asked.append(time.monotonic())


def _client(address: str, number: int) -> httpx.AsyncClient:
    """A client with an address of its own on this machine."""
    transport = httpx.AsyncHTTPTransport(
        local_address=f"127.1.{number // 250}.{number % 250 + 1}", limits=httpx.Limits(max_connections=None)
    )
    return httpx.AsyncClient(base_url=address, timeout=120, transport=transport)


async def _visits(address: str, count: int, seconds: float) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {step: [] for step in STEPS}
    async with _client(address, 0) as client:
        config = await config_of(client)
    until = time.monotonic() + seconds

    async def come(number: int) -> None:
        # Not all in one moment, as people come.
        await asyncio.sleep(PAUSE_S * number / count)
        async with _client(address, number) as client:
            await _visit(client, config, until, times)

    await asyncio.gather(*map(come, range(count)))
    return times


async def _floods(address: str, count: int, seconds: float) -> dict[str, list[float]]:
    asked: list[float] = []
    async with _client(address, 1000) as client:
        config = await config_of(client)
        until = time.monotonic() + seconds
        await asyncio.gather(*(_flood(client, config, until, asked) for _ in range(count)))
    return {"asked": asked}


if __name__ == "__main__":
    what = {"visit": _visits, "flood": _floods}[sys.argv[1]]
    print(json.dumps(asyncio.run(what(sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))))
