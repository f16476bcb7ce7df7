"""ASGI middleware that tracks which answers are being read.

Gradio runs a function whether or not anyone fetches its results: a call is one request, and its stream of
events another. A run is watched only as long as that stream is open.
"""

from __future__ import annotations

import re
from collections import Counter
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Receive, Scope, Send

_CALL = re.compile(r"/call/(?:v2/)?[^/]+/([^/]+)/?\Z")
_SESSION = re.compile(r"/queue/data/?\Z")


class EventStreams:
    """The open streams of a web application, by session, or by event for a program's single call."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    def is_open(self, *names: str | None) -> bool:
        """Returns whether a stream of one of these sessions or events is open.

        None stands for a call without a stream, as one from within this program, which counts as read.
        """
        return None in names or any(self._open.get(name or "", 0) for name in names)

    def add(self, name: str) -> None:
        self._open[name] += 1

    def remove(self, name: str) -> None:
        self._open[name] -= 1
        if not self._open[name]:
            del self._open[name]


class CountedStreams:
    """ASGI middleware that counts in `streams` the streams of `app`, from the request to the end of the
    answer."""

    def __init__(self, app: ASGIApp, streams: EventStreams) -> None:
        self._app = app
        self._streams = streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = _stream_of(scope)
        if not name:
            await self._app(scope, receive, send)
            return
        self._streams.add(name)
        try:
            await self._app(scope, receive, send)
        finally:
            self._streams.remove(name)


def _stream_of(scope: Scope) -> str:
    """Returns the session or the event whose stream is requested; empty for other requests."""
    if scope["type"] != "http" or scope["method"] != "GET":
        return ""
    if call := _CALL.search(scope["path"]):
        return call[1]
    if _SESSION.search(scope["path"]):
        return parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[-1]
    return ""
