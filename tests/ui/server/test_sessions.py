"""What the server keeps of tabs and calls: all that are open, and few and small ones of the others."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import httpx
import pytest
from gradio.state_holder import SessionState

from tests.soak.visitors import Visitor, config_of
from tests.ui.coroutines import run
from tests.ui.fake_worker import FakeWorker
from ui.page import build
from ui.server import sessions
from ui.server.sessions import Session, Sessions

CALL = ["pocket", "instant", "BF16", 1, 1, "", None, None, "", "", 0, "drop", False, None, ""]


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[gr.Blocks]:
    """A page that keeps five idle sessions, with a Gradio that keeps messages for ten."""
    monkeypatch.setattr(sessions, "KEPT", 5)
    page = build(FakeWorker(block_seconds=0.02), tmp_path / "outputs")
    page._queue.pending_messages_per_session.max_size = 10  # of 2,000
    page.launch(prevent_thread_lock=True, quiet=True)
    yield page
    page.close(verbose=False)


def client_of(page: gr.Blocks) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=page.local_url or "", timeout=30)


def kept(page: gr.Blocks) -> dict[str, int]:
    queue = page._queue
    return {
        "states": len(page.state_holder.session_data),
        "last used": len(page.state_holder.time_last_used),
        "messages": len(queue.pending_messages_per_session),
        "pending": len(queue.pending_event_ids_session),
    }


def test_calls_leave_little_behind(page):
    async def calls() -> None:
        async with client_of(page) as client:
            for _ in range(12):
                asked = await client.post("gradio_api/call/generate", json={"data": CALL})
                answer = await client.get(f"gradio_api/call/generate/{asked.json()['event_id']}")
                assert "event: complete" in answer.text

    run(calls())
    assert all(count <= 6 for count in kept(page).values()), kept(page)


def test_tabs_leave_little_behind(page):
    async def tabs() -> None:
        async with client_of(page) as client:
            config = await config_of(client)
            for _ in range(12):
                visitor = Visitor(client, config)
                async with visitor.open():
                    assert (await visitor.call("arrive"))[-2]["success"]
                    assert (await visitor.call("generate_1", prompt="instant"))[-2]["success"]

    run(tabs())
    assert all(count <= 6 for count in kept(page).values()), kept(page)


def test_sessions_that_anyone_names_are_kept_no_longer(page):
    async def names() -> None:
        async with client_of(page) as client:
            chart = next(
                each for each in (await config_of(client))["components"] if each["props"].get("server_fns")
            )
            body = {"data": {}, "fn_name": chart["props"]["server_fns"][0], "component_id": chart["id"]}
            for number in range(30):
                await client.post(
                    "gradio_api/component_server", json={**body, "session_hash": f"name {number}"}
                )

    run(names())
    assert kept(page)["states"] <= 6


def test_strangers_end_no_stream_and_forget_no_tab(page):
    """Thirty sessions that nobody reads, while one is watched and another tab is only open."""

    async def attack() -> tuple[list[dict[str, Any]], bool]:
        async with client_of(page) as client:
            config = await config_of(client)
            watching, idle = Visitor(client, config), Visitor(client, config)
            async with watching.open(), idle.open():
                await idle.call("arrive")
                page.state_holder[idle.session][_run_id(page)] = "a run"
                await watching.ask("generate_1", prompt="slow", blocks=2)
                seen = asyncio.create_task(_all(watching))
                for _ in range(30):
                    (await Visitor(client, config).ask("foresee")).raise_for_status()
                messages = await seen
                return messages, page.state_holder[idle.session][_run_id(page)] == "a run"

    messages, remembered = run(attack())
    assert messages[-2]["msg"] == "process_completed" and messages[-2]["success"]
    assert remembered


async def _all(visitor: Visitor) -> list[dict[str, Any]]:
    return [message async for message in visitor.messages()]


def _run_id(page: gr.Blocks) -> int:
    return next(
        key
        for key, block in page.blocks.items()
        if isinstance(block, gr.State) and not isinstance(block, gr.BrowserState)
    )


def test_an_event_costs_no_more_after_many(page):
    """Gradio computed figures of all events after each."""

    async def events() -> None:
        async with client_of(page) as client:
            visitor = Visitor(client, await config_of(client))
            for _ in range(5):
                await visitor.call("foresee")

    page._queue._get_df = pytest.fail  # type: ignore[method-assign]
    run(events())
    assert len(page._queue.event_analytics) <= 1


def test_a_session_is_small_and_made_at_once(tmp_path):
    """Of Gradio's, each described all components again."""
    page = build(FakeWorker(), tmp_path)
    asked: list[int] = []
    for block in page.blocks.values():
        block.get_config = lambda: asked.append(1) or {}  # type: ignore[method-assign]
    session = Session(page)
    assert asked == []
    assert sys.getsizeof(session.blocks_config.blocks.maps[0]) < 100  # type: ignore[attr-defined]
    assert session.blocks_config.fns is page.default_config.fns


def test_a_session_has_components_of_its_own(tmp_path):
    page = build(FakeWorker(), tmp_path)
    holder = Sessions(page)
    key = next(key for key, block in page.blocks.items() if isinstance(block, gr.Button))
    other = gr.Button("Another")
    hers, his = holder["hers"], holder["his"]
    hers[key] = other
    hers[_run_id(page)] = "her run"
    assert hers[key] is other and his[key] is page.blocks[key] is SessionState(page)[key]
    assert hers[_run_id(page)] == "her run" and his[_run_id(page)] == ""
    assert key in hers and _run_id(page) not in holder["another"]
    assert holder["hers"] is hers
