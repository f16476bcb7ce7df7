"""ASGI middleware that slows down logins after wrong passwords, for each client address."""

from __future__ import annotations

import time
from asyncio import Lock, sleep
from dataclasses import dataclass, field

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ui import text
from ui.server.addresses import client_address

_FREE = 4  # wrong passwords before an attempt has to wait
_LONGEST_S = 8.0
_FORGET_S = 600.0
_WAITING = 4  # attempts of one address at a time; further ones are refused
_ADDRESSES = 1000


@dataclass(slots=True, eq=False)
class _Address:
    """Failures of one address, and its waiting attempts."""

    failures: int = 0
    waiting: int = 0
    last: float = field(default_factory=time.monotonic)
    turn: Lock = field(default_factory=Lock)


class LoginThrottle:
    """ASGI middleware that delays a POST to `/login` if its address failed before, and passes everything on
    to `app`.

    Four failures are free; then an attempt waits 1, 2, 4 and at most 8 seconds. Attempts of one address are
    made one after the other, and more than four at a time are answered with 429.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._addresses: dict[str, _Address] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "").rstrip("/")
        if scope["type"] != "http" or scope["method"] != "POST" or not path.endswith("/login"):
            return await self._app(scope, receive, send)
        connected = (scope.get("client") or ("",))[0]
        address = self._of(client_address(connected, Headers(scope=scope)))
        if address.waiting >= _WAITING:
            return await PlainTextResponse(text.TOO_MANY_LOGINS, 429)(scope, receive, send)

        async def note(message: Message) -> None:
            # A success does not reset the count: it may be another person's, behind the same address.
            if message["type"] == "http.response.start" and message["status"] >= 400:
                address.failures += 1
                address.last = time.monotonic()
            await send(message)

        address.waiting += 1
        try:
            async with address.turn:
                if address.failures >= _FREE:
                    await sleep(min(_LONGEST_S, 2.0 ** (address.failures - _FREE)))
                return await self._app(scope, receive, note)
        finally:
            address.waiting -= 1

    def _of(self, name: str) -> _Address:
        now = time.monotonic()
        found = self._addresses.pop(name, None)
        if found is None or (now - found.last > _FORGET_S and not found.waiting):
            found = _Address()
        # Ordered by last use, the newest last.
        self._addresses[name] = found
        if len(self._addresses) > _ADDRESSES:
            idle = (other for other, each in self._addresses.items() if not each.waiting and other != name)
            self._addresses.pop(next(idle, name))
        return found
