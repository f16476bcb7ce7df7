"""Server-side state of browser tabs and of programs' calls: kept while they are open, and small.

Gradio keeps the last 10,000 sessions, open or not, each with a description of every component: about 0.2 MiB
and 20 ms each. It keeps messages for the last 2,000 only: as many requests would end the streams of everyone
else.
"""

from __future__ import annotations

import re
import sys
from collections import ChainMap, Counter
from copy import copy
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs

import gradio as gr
from gradio.state_holder import SessionState, StateHolder
from starlette.types import ASGIApp, Receive, Scope, Send

# Sessions kept without a connection: tabs that resume after a sleep, and programs that have yet to fetch an
# answer.
KEPT = 200
_STREAM = re.compile(r"/(?:heartbeat|call(?:/v2)?/[^/]+)/([^/]+)/?")


class Session(SessionState):
    """State of one tab: its changes to the components of `page`, which all tabs share."""

    def __init__(self, page: gr.Blocks) -> None:
        shared = page.default_config
        bare = copy(shared)
        bare.blocks, bare.fns = {}, {}
        super().__init__(SimpleNamespace(default_config=bare, blocks={}))  # type: ignore[arg-type]
        self.blocks_config.blocks = ChainMap({}, shared.blocks)  # type: ignore[assignment]
        self.blocks_config.fns = shared.fns

    def __setitem__(self, key: int, value: Any) -> None:
        if isinstance(self.blocks_config.blocks.get(key), gr.State):
            super().__setitem__(key, value)
        else:
            self.blocks_config.blocks[key] = value

    # Descriptions of components are read by `gr.DeepLinkButton` only, which this page does not have.

    def _update_config(self, key: int) -> None:
        pass

    def _update_value_in_config(self, key: int, value: Any) -> None:
        pass


class Sessions(StateHolder):
    """Sessions of `page`: all that are open or have work in progress, and the last `KEPT` others."""

    def __init__(self, page: gr.Blocks) -> None:
        super().__init__()
        self._open: Counter[str] = Counter()
        self.set_blocks(page)
        # Messages are removed by this class, and never while they are being read.
        page._queue.pending_messages_per_session.max_size = sys.maxsize

    def __getitem__(self, session_id: str) -> SessionState:
        if session_id not in self.session_data:
            self.session_data[session_id] = Session(self.blocks)
        return super().__getitem__(session_id)

    def update(self, session_id: str) -> None:
        """Records that a session was used just now, and removes the oldest idle ones beyond `KEPT`."""
        messages = self.blocks._queue.pending_messages_per_session
        with self.lock:
            if session_id in self.session_data:
                self.session_data.move_to_end(session_id)
            if max(len(self.session_data), len(messages)) <= KEPT:
                return
            # Sessions whose work was cancelled before it began have no state.
            known = [*(each for each in messages if each not in self.session_data), *self.session_data]
            idle = [each for each in known if each != session_id and not self._is_busy(each)]
            for each in idle[: max(0, len(idle) - KEPT)]:
                self._forget(each)

    def opened(self, session_id: str) -> None:
        self._open[session_id] += 1

    def closed(self, session_id: str) -> None:
        self._open[session_id] -= 1
        if not self._open[session_id]:
            del self._open[session_id]
            self.update(session_id)

    def _is_busy(self, session_id: str) -> bool:
        queue = self.blocks._queue
        events = queue.pending_event_ids_session.get(session_id, ())
        return session_id in self._open or any(event in queue.event_ids_to_events for event in events)

    def _forget(self, session_id: str) -> None:
        queue = self.blocks._queue
        for kept in (
            self.session_data,
            self.time_last_used,
            queue.pending_messages_per_session,
            queue.pending_event_ids_session,
        ):
            kept.pop(session_id, None)


class OpenStreams:
    """ASGI middleware that marks in `sessions` those with a connection that stays open."""

    def __init__(self, app: ASGIApp, sessions: Sessions) -> None:
        self._app = app
        self._sessions = sessions

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        session_id = _stream_of(scope)
        if not session_id:
            return await self._app(scope, receive, send)
        self._sessions.opened(session_id)
        try:
            await self._app(scope, receive, send)
        finally:
            self._sessions.closed(session_id)


def _stream_of(scope: Scope) -> str:
    """Returns the session that a request opens a stream for, or the event for a program's call; empty for
    other requests."""
    if scope["type"] != "http" or scope["method"] != "GET":
        return ""
    path: str = scope["path"]
    if path.rstrip("/").endswith("/queue/data"):
        return parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
    found = _STREAM.search(path)
    return found[1] if found and found.end() == len(path) else ""
