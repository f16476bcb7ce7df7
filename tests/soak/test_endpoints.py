"""Every endpoint of a running page, asked for anything: an answer or a sentence, no 500, no hang."""

from __future__ import annotations

import json
import random
import secrets
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends import registry
from tests.soak import nasty
from tests.soak.conftest import FULL, Tell
from tests.ui.fake_worker import FakeWorker
from ui.page import Studio, build

POCKET = registry.find("pocket")
CASES = settings(max_examples=1000 if FULL else 20)
SLOWEST_S = 15.0
_counted = {"cases": 0, "refused": 0, "slowest": 0.0}


class Site:
    """A page and what its functions take."""

    def __init__(self, page: Studio, address: str) -> None:
        self.page = page
        self.client = httpx.Client(base_url=address, timeout=SLOWEST_S)
        self.config = self.client.get("config").json()
        self.functions = [each for each in self.config["dependencies"] if each["backend_fn"]]
        kinds = {each["id"]: each["type"] for each in self.config["components"]}
        values = {each["id"]: each["props"].get("value") for each in self.config["components"]}
        # Short videos: many are asked for.
        values |= {
            i: 1 for i, kind in kinds.items() if kind == "slider" and values[i] == POCKET.default_blocks
        }
        self.inputs = {each["id"]: [(kinds[i], values[i]) for i in each["inputs"]] for each in self.functions}
        self.servers = [
            (each["id"], name)
            for each in self.config["components"]
            for name in each["props"].get("server_fns") or []
        ]

    def post(self, path: str, **body: Any) -> httpx.Response:
        began = time.monotonic()
        # As Python writes it: NaN, and numbers of any length.
        answer = self.client.post(
            path, content=json.dumps(body), headers={"content-type": "application/json"}
        )
        _counted["cases"] += 1
        _counted["refused"] += answer.status_code >= 400
        _counted["slowest"] = max(_counted["slowest"], time.monotonic() - began)
        assert answer.status_code < 500, (path, body, answer.status_code, answer.text[:500])
        assert "Traceback" not in answer.text
        return answer

    def ask(self, fn_index: Any, data: Any, event_data: Any = None) -> list[str]:
        """Events of a function that is queued, to its last one."""
        session = secrets.token_hex(6)
        joined = self.post(
            "gradio_api/queue/join", fn_index=fn_index, data=data, session_hash=session, event_data=event_data
        )
        if joined.status_code >= 400:
            return []
        began, lines = time.monotonic(), []
        with self.client.stream("GET", "gradio_api/queue/data", params={"session_hash": session}) as stream:
            assert stream.status_code < 500
            for line in stream.iter_lines():
                lines.append(line)
                assert 'File \\"' not in line and "Traceback" not in line, line
                if time.monotonic() - began > SLOWEST_S:
                    # Others' runs come first, and are shown meanwhile.
                    assert any('"process_generating"' in line for line in lines), lines
                    return lines
                if '"process_completed"' in line or '"close_stream"' in line:
                    return lines
        return lines


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    worker = FakeWorker(block_seconds=0.0)
    page = build(worker, tmp_path_factory.mktemp("endpoints") / "outputs")
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, server_port=None)
    yield Site(page, address)
    page.close()


@given(st.data())
@CASES
def test_every_function_of_the_page(site: Site, data: st.DataObject):
    function = data.draw(st.sampled_from(site.functions), label="function")
    usual = [value for _, value in site.inputs[function["id"]]]
    given_data: Any = list(usual)
    # Mostly right, so that it is let in: one or two values are not.
    for _ in range(data.draw(st.integers(0, 2))):
        if given_data:
            given_data[data.draw(st.integers(0, len(given_data) - 1))] = data.draw(nasty.anything)
    if data.draw(st.integers(0, 9)) == 0:
        given_data = data.draw(nasty.anything)
    event = data.draw(
        st.none()
        | st.fixed_dictionaries(
            {},
            optional={
                "id": nasty.scalars,
                "name": nasty.scalars | st.just("Drive"),
                "action": st.sampled_from(["show", "again", "recall", "delete", "more", "up", "stop"])
                | nasty.scalars,
                "share": nasty.scalars,
            },
        )
        | nasty.anything
    )
    site.ask(function["id"], given_data, event)


@given(st.data())
@CASES
def test_what_scripts_of_the_page_call(site: Site, data: st.DataObject):
    component, name = data.draw(st.sampled_from(site.servers))
    asked = data.draw(
        nasty.anything
        | st.fixed_dictionaries(
            {"model": st.just("pocket") | nasty.scalars},
            optional={
                "run": nasty.scalars,
                "keys": nasty.anything,
                "points": nasty.anything | st.just([[0, 0], [1, 2]]),
                "text": nasty.path_text,
                "path": nasty.path_text,
                "kind": nasty.scalars,
            },
        )
    )
    site.post(
        "gradio_api/component_server",
        data=asked,
        component_id=component,
        fn_name=name,
        session_hash=data.draw(st.just("x") | st.text(max_size=8)),
    )


NAMED = ("generate", "compare", "vocabulary", "backends", "no_such")


@given(st.sampled_from(NAMED), st.lists(nasty.anything, max_size=18) | nasty.anything)
@CASES
def test_every_endpoint_for_programs(site: Site, name: str, data: Any):
    site.post(f"gradio_api/call/{name}", data=data)


@given(st.sampled_from(NAMED[:3]), st.dictionaries(nasty.words, nasty.anything, max_size=4))
@CASES
def test_every_endpoint_by_names(site: Site, name: str, values: dict[str, Any]):
    site.post(f"gradio_api/call/v2/{name}", **values)


def test_the_page_still_works(site: Site, tell: Tell):
    """And no run is left in the queue by all of it."""
    deadline = time.monotonic() + 60
    while site.page._manager.current("") is not None:
        record = site.page._manager.current("")
        if record is not None:
            site.page._manager.stop(record)
        assert time.monotonic() < deadline, "a run that nobody can end"
        time.sleep(0.05)
    function = next(each for each in site.functions if each["api_name"] == "vocabulary")
    lines = site.ask(function["id"], ["pocket"])
    assert any('"success":true' in line for line in lines)
    tell(
        "endpoints", cases=_counted["cases"], functions=len(site.functions) + len(site.servers),
        refused=_counted["refused"], status_500=0, hangs=0, slowest=f"{_counted['slowest']:.2f} s",
    )  # fmt: skip


def test_random_bytes_for_a_body(site: Site):
    dice = random.Random(0)
    for path in ("queue/join", "component_server", "call/generate", "cancel", "reset", "upload"):
        for _ in range(50 if FULL else 3):
            answer = site.client.post(
                f"gradio_api/{path}",
                content=dice.randbytes(dice.randrange(200)),
                headers={
                    "content-type": dice.choice(["application/json", "text/plain", "multipart/form-data"])
                },
            )
            assert "Traceback" not in answer.text
            _counted["cases"] += 1
