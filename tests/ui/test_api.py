"""The endpoints for programs: driven by gradio_client and by an MCP client, over the fake worker."""

from __future__ import annotations

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from gradio.route_utils import delete_files_created_by_app
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image

from backends import registry
from qvg.config import PRESETS
from tests.ui.fake_worker import FakeWorker
from tests.ui.page import Page
from ui import api
from ui.form.values import FormError, default_form
from ui.page import build
from ui.runs import mp4
from ui.runs.manager import RunManager
from ui.server.event_streams import CountedStreams, EventStreams

POCKET = registry.find("pocket")


@pytest.fixture(scope="module")
def worker() -> FakeWorker:
    return FakeWorker(block_seconds=0.05)


@pytest.fixture(scope="module")
def address(worker, tmp_path_factory):
    pytest.importorskip("mcp")
    page = build(worker, tmp_path_factory.mktemp("api") / "outputs")
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, server_port=None, mcp_server=True)
    yield address
    page.close()


@pytest.fixture(scope="module")
def client(address, tmp_path_factory) -> Client:
    return Client(address, verbose=False, download_files=str(tmp_path_factory.mktemp("downloads")))


def test_six_endpoints_with_named_and_typed_inputs(client):
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    assert set(endpoints) == {"/backends", "/vocabulary", "/runs", "/delete", "/generate", "/compare"}
    for name in ("/generate", "/compare"):
        inputs = {each["parameter_name"]: each for each in endpoints[name]["parameters"]}
        assert not any(name.startswith("param_") for name in inputs)
        assert all(each["parameter_has_default"] for each in inputs.values()), "each may be left out"
        assert str(list(PRESETS)).strip("[]") in inputs["codecs" if name == "/compare" else "codec"][
            "python_type"
        ]["type"].replace('"', "'")
        assert "filepath" in inputs["picture"]["python_type"]["type"]
        assert inputs["seed"]["python_type"]["type"] == "int"


def test_what_there_is(client):
    found = {each["id"]: each for each in client.predict(api_name="/backends")}
    assert list(found) == [spec.id for spec in registry.specs()]
    assert found["pocket"]["ready"] is True
    assert found["longcat"]["ready"] is False
    assert "--download longcat" in found["longcat"]["missing"]
    assert found["pocket"]["codecs"] == list(PRESETS)
    told = client.predict(model="pocket", api_name="/vocabulary")
    assert "box" in {word for words in told["words"].values() for word in words}
    assert told["examples"] == list(POCKET.examples)


def test_a_video_is_made_and_its_progress_told(client):
    job = client.submit(prompt="a box", blocks=3, seed=5, path="w-4", codec="QVG-Max", api_name="/generate")
    (video,), made = job.result(30)
    kept = mp4.read_settings(Path(video))
    assert (kept["prompt"], kept["seed"], kept["path"]) == ("a box", 5, "w-4")
    assert made["camera"] == "w-4"
    assert (made["made"]["frames"], made["sides"][0]["codec"]) == (12, "QVG-Max")
    assert kept["made"]["sides"] == made["made"]["sides"]
    before = [told for videos, told in job.outputs() if not videos]
    assert "running" in {told["state"] for told in before}
    assert all(told["said"] for told in before)


def test_a_length_that_is_left_out_is_the_paths_or_the_usual_one(client, worker):
    client.predict(prompt="instant", path="w-8", api_name="/generate")
    assert worker.jobs[-1].request.blocks == 2
    client.predict(prompt="instant", codec="BF16", api_name="/generate")
    assert worker.jobs[-1].request.blocks == POCKET.default_blocks
    assert worker.jobs[-1].sides[0].codec == PRESETS["BF16"]


def test_a_comparison_comes_with_its_sides_and_their_figures(client, worker):
    videos, made = client.predict(
        prompt="instant",
        codecs=["BF16", "QVG INT2", "KIVI INT2"],
        blocks=8,
        budget_mib=20,
        settings={"every": 2, "clusters": 32},
        api_name="/compare",
    )
    assert [Path(video).name.rpartition("-seed-2-")[2] for video in videos] == [
        "bf16.mp4", "qvg-int2.mp4", "kivi-int2.mp4", "bf16-side-by-side.mp4",
    ]  # fmt: skip
    assert [side["codec"] for side in made["made"]["sides"]] == ["BF16", "QVG INT2", "KIVI INT2"]
    assert made["sides"][0]["drops_from"] is not None
    assert made["sides"][1]["drops_from"] is None
    assert worker.jobs[-1].sides[1].codec.clusters == 32
    assert worker.jobs[-1].sides[1].policy.every == 2


def test_a_picture_is_uploaded(client, worker, tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    client.predict(prompt="instant", blocks=1, picture=handle_file(tmp_path / "a.png"), api_name="/generate")
    assert worker.jobs[-1].request.image.shape == (30, 40, 3)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"blocks": 900}, "Pocket World makes 1 to 120 blocks, not 900"),
        ({"path": "q-3"}, "'q' is not a key"),
        ({"budget_mib": 1}, "does not fit in this memory budget"),
        ({"settings": {"warmth": 3}}, "settings is an object with some of clusters"),
        ({"settings": {"options": {"x": "y"}}}, "Pocket World has no option x='y'; it has none"),
        ({"codec": "QVG INT9"}, "not in the list of choices"),
    ],
)
def test_what_is_wrong_is_said(client, asked, said):
    with pytest.raises(AppError, match=said):
        client.predict(**{"prompt": "instant", **asked}, api_name="/generate")


def test_a_run_that_fails_hands_over_what_was_made(client):
    (video,), made = client.predict(prompt="fail", blocks=5, api_name="/generate")
    assert mp4.read_settings(Path(video))["made"]["frames"] == 8
    assert "Out of memory in block 3" in made["made"]["failed"]


def test_a_run_that_makes_nothing_is_an_error(client):
    with pytest.raises(AppError, match=r"LongCat-Video 13\.6B cannot run here\. Not downloaded: needs"):
        client.predict(model="longcat", prompt="fail", blocks=1, api_name="/generate")


def test_two_codecs_at_least_are_compared(client):
    with pytest.raises(AppError, match="2 to 4 different presets"):
        client.predict(prompt="instant", codecs=["QVG-Max"], api_name="/compare")


def test_a_program_that_leaves_stops_its_run(client, worker):
    job = client.submit(prompt="slow", blocks=100, api_name="/generate")
    deadline = time.monotonic() + 20
    while not any(told["state"] == "running" for _, told in job.outputs()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    asked = len(worker.jobs)
    job.cancel()
    # The device is free again for the next.
    client.submit(prompt="instant", blocks=1, api_name="/generate").result(20)
    assert len(worker.jobs) == asked + 1


@pytest.fixture
def public(tmp_path):
    """The address and the desk of a page of strangers."""
    page = build(FakeWorker(block_seconds=0.05), tmp_path / "outputs")
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, server_port=None)
    page._manager.shared = True
    yield address, page._manager
    for record in list(page._manager._records.values()):
        record.run.stop()
    page.close()


def test_programs_of_one_address_have_two_runs_at_once(public):
    address, manager = public
    with httpx.Client(base_url=address, timeout=30) as flooder:
        asked = [
            flooder.post("gradio_api/call/v2/generate", json={"prompt": "slow", "blocks": 100}).json()
            for _ in range(40)
        ]
        # Of the last one the answer is there at once.
        answer = flooder.get(f"gradio_api/call/v2/generate/{asked[-1]['event_id']}").text
    assert "event: error" in answer
    assert len(manager.worker.jobs) == 2
    assert len(list(manager.outputs.glob("2*"))) == 2
    with pytest.raises(AppError, match="2 videos running or waiting"):
        Client(address, verbose=False).predict(prompt="instant", blocks=1, api_name="/generate")
    # Another program, behind a proxy on this machine, has places of its own.
    elsewhere = Client(address, verbose=False, headers={"x-forwarded-for": "203.0.113.7"})
    waiting = elsewhere.submit(prompt="instant", blocks=1, api_name="/generate")
    deadline = time.monotonic() + 20
    while len(manager.worker.jobs) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    for record in list(manager._records.values())[:2]:
        manager.stop(record)
    (video,), _ = waiting.result(20)
    assert Path(video).exists()


HERS, HIS = "hers-0123456789abcdef", "his-0123456789abcdef!"


def test_a_program_finds_its_runs_again_by_the_name_it_gave(public):
    address, manager = public
    hers, his = (Client(address, verbose=False) for _ in range(2))
    hers.predict(prompt="instant", blocks=1, seed=5, visitor=HERS, api_name="/generate")
    hers.predict(prompt="instant", codecs=["BF16", "QVG INT2"], blocks=1, visitor=HERS, api_name="/compare")
    # Nobody's.
    his.predict(prompt="instant", blocks=1, api_name="/generate")
    assert his.predict(visitor=HIS, api_name="/runs") == []
    compared, single = Client(address, verbose=False).predict(visitor=HERS, api_name="/runs")
    assert (single["state"], single["seed"], single["frames"], single["prompt"]) == ("done", 5, 4, "instant")
    assert len(compared["videos"]) == 2
    assert not any(HERS in file.read_text() for file in manager.outputs.rglob("run.json"))
    with httpx.Client(base_url=address, timeout=20) as stranger:
        (served,) = single["videos"]
        assert stranger.get(served.lstrip("/")).content[4:8] == b"ftyp"
    assert hers.predict(visitor=HERS, most=1, api_name="/runs") == [compared]
    assert hers.predict(visitor=HERS, most=0, api_name="/runs") == []
    # What is hers is not his to delete, nor anyone's without a name.
    for visitor in (HIS, "", "short", HERS + " ", HERS.upper()):
        with pytest.raises(AppError):
            his.predict(run_id=single["id"], visitor=visitor, api_name="/delete")
    assert hers.predict(run_id=single["id"], visitor=HERS, api_name="/delete") == [compared]
    with pytest.raises(AppError, match="not here any more"):
        hers.predict(run_id=single["id"], visitor=HERS, api_name="/delete")
    assert hers.predict(visitor=HERS, api_name="/runs") == [compared]


def test_a_name_that_can_be_guessed_is_nobody(public):
    address, manager = public
    client = Client(address, verbose=False)
    for visitor in ("", "short", "x" * 65, "sixteen letters with spaces", "é" * 20, "x" * 20 + "\n"):
        for asked in ({"api_name": "/runs"}, {"run_id": "x", "api_name": "/delete"}):
            with pytest.raises(AppError, match="Give a visitor"):
                client.predict(visitor=visitor, **asked)
        if visitor:
            with pytest.raises(AppError, match="Give a visitor"):
                client.predict(prompt="x", visitor=visitor, api_name="/generate")
    assert manager.worker.jobs == []
    # What is under way is listed, and not deleted.
    job = client.submit(prompt="slow", blocks=100, visitor=HERS, api_name="/generate")
    until(lambda: any(told["state"] == "running" for _, told in job.outputs()))
    (listed,) = client.predict(visitor=HERS, api_name="/runs")
    assert (listed["state"], listed["videos"]) == ("running", [])
    with pytest.raises(AppError, match="still being made"):
        client.predict(run_id=listed["id"], visitor=HERS, api_name="/delete")
    job.cancel()


def test_a_local_page_lists_all_runs_whoever_asks(client):
    client.predict(prompt="instant", blocks=1, seed=77, api_name="/generate")
    newest, *_ = client.predict(api_name="/runs")
    assert newest["seed"] == 77
    left = client.predict(run_id=newest["id"], visitor="anyone", api_name="/delete")
    assert newest["id"] not in [each["id"] for each in left]


def asked_without_reading(address: str, **asked) -> str:
    """The event of a run that was asked for; nobody fetches its answer."""
    return httpx.post(f"{address}gradio_api/call/v2/generate", json=asked, timeout=30).json()["event_id"]


def until(true, timeout=20.0):
    deadline = time.monotonic() + timeout
    while not true():
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.02)


def test_a_run_of_a_program_is_watched_only_while_its_answer_is_read(public, monkeypatch):
    address, manager = public
    monkeypatch.setattr("ui.runs.manager.HEARTBEAT_S", 0.05)
    read = asked_without_reading(address, prompt="slow", blocks=100, seed=1)
    with httpx.stream("GET", f"{address}gradio_api/call/v2/generate/{read}", timeout=30) as answer:
        lines = answer.iter_lines()
        until(lambda: "running" in next(lines))
        asked_without_reading(address, prompt="slow", blocks=100, seed=2)
        monkeypatch.setattr("ui.runs.manager.ABANDONED_S", 0.2)
        until(lambda: manager.worker.stopped)
        first, second = (record.run.id for record in manager._records.values())
        assert manager.worker.stopped == [second]
    until(lambda: first in manager.worker.stopped)


def test_a_page_that_nobody_reads_watches_nothing(tmp_path, monkeypatch):
    """Its listeners can be called as endpoints are, too."""
    monkeypatch.setattr("ui.runs.manager.ABANDONED_S", 0.3)
    monkeypatch.setattr("ui.runs.manager.HEARTBEAT_S", 0.05)
    manager = RunManager(FakeWorker(block_seconds=0.05), tmp_path)
    manager.shared, manager.is_read = True, EventStreams().is_open
    page = Page(manager)
    events = page.start(prompt="slow", blocks=100)
    page.watch(events)
    assert page.status["text"].startswith("Stopped")


@pytest.mark.parametrize(
    ("request_for", "names"),
    [
        ("/gradio_api/call/generate/abc", ("abc",)),
        ("/gradio_api/call/v2/generate/abc/", ("abc",)),
        ("/gradio_api/queue/data?session_hash=abc", ("abc", "def")),
        ("/gradio_api/queue/data?x=1&session_hash=%61bc", ("abc",)),
    ],
)
def test_streams_are_counted_by_the_names_in_their_addresses(request_for, names):
    streams, seen = EventStreams(), []
    path, _, query = request_for.partition("?")

    async def app(scope, receive, send):
        seen.append((streams.is_open(*names), streams.is_open("", "another")))
        raise ConnectionError

    async def ask(method: str) -> None:
        scope = {"type": "http", "method": method, "path": path, "query_string": query.encode()}
        with pytest.raises(ConnectionError):
            await CountedStreams(app, streams)(scope, None, None)

    for method in ("GET", "POST"):
        with ThreadPoolExecutor(1) as pool:
            pool.submit(asyncio.run, ask(method)).result()
    assert seen == [(True, False), (False, False)]
    assert not streams.is_open(*names)
    assert streams.is_open(None, "a call from within")


@pytest.mark.parametrize("around", [False, True], ids=["elsewhere", "in the folder of uploads"])
def test_a_file_of_another_visitor_is_no_input(tmp_path, monkeypatch, around):
    if around:
        monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    page = build(FakeWorker(block_seconds=0.0), tmp_path / "outputs")
    folder = tmp_path / "outputs" / "2026-01-01-000000-000-hers"
    (folder / "export").mkdir(parents=True)
    Image.new("RGB", (40, 30), "red").save(folder / "picture.png")
    (folder / "video.mp4").write_bytes(b"x")
    (tmp_path / "link").symlink_to(folder)
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, server_port=None)
    meta = {"meta": {"_type": "gradio.FileData"}}
    picture = str(folder / "picture.png")
    served = f"{address}gradio_api/file={picture}"
    with httpx.Client(base_url=address, timeout=30) as client:
        for given in (
            {"path": picture, **meta},
            {"path": picture},
            {"path": picture, "orig_name": "mine.png", "url": None, **meta},
            {"path": f"{folder}/export/../picture.png", **meta},
            {"path": f"{tmp_path}/link/picture.png", **meta},
            {"path": f"/proc/self/root{picture}", **meta},
            {"path": f"file://{picture}", **meta},
            {"path": served, **meta},
            {"path": "x.png", "url": served, **meta},
            [{"path": picture, **meta}],
            picture,
        ):
            for name in ("picture", "clip"):
                asked = {"prompt": "instant", "blocks": 1, name: given}
                told = client.post("gradio_api/call/v2/generate", json=asked)
                if told.status_code == 200:
                    event = told.json()["event_id"]
                    told = client.get(f"gradio_api/call/v2/generate/{event}")
                    assert "event: error" in told.text, given
                    assert "event: complete" not in told.text
    assert page._manager.worker.jobs == []
    page.close()


def test_uploads_are_among_what_is_deleted_by_age(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "uploads"))
    page = build(FakeWorker(), tmp_path / "outputs")
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, server_port=None)
    (upload,) = httpx.post(f"{address}gradio_api/upload", files={"files": ("a.png", b"x")}).json()
    delete_files_created_by_app(page, 3600)
    assert Path(upload).exists()
    delete_files_created_by_app(page, -1)
    assert not Path(upload).exists()
    page.close()


def test_a_local_page_takes_all_runs_of_a_program(client, worker):
    jobs = [client.submit(prompt="instant", blocks=1, seed=n, api_name="/generate") for n in range(5)]
    assert [job.result(30)[1]["seed"] for job in jobs] == list(range(5))


def test_options_of_a_model_are_named():
    longcat = registry.find("longcat")
    form = default_form(longcat)
    option = longcat.options[0]
    chosen = api.with_settings(form, longcat, {"options": {option.name: option.values[-1]}})
    assert (option.name, option.values[-1]) in chosen.own_settings(longcat)
    assert api.with_settings(form, longcat, {"every": "２.0"}).every == 2
    with pytest.raises(FormError, match="are numbers"):
        api.with_settings(form, longcat, {"every": "two"})
    for options in (["x"], {"x" * 100_000: "x"}, {option.name: "x" * 100_000}):
        with pytest.raises(FormError, match="has no option") as caught:
            api.with_settings(form, longcat, {"options": options})
        assert len(str(caught.value)) < 300


def test_the_endpoints_are_tools_of_an_mcp_server(address):
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async def talk():
        async with (
            streamablehttp_client(f"{address}gradio_api/mcp/") as (receive, send, _),
            ClientSession(receive, send) as session,
        ):
            await session.initialize()
            tools = {tool.name: tool for tool in (await session.list_tools()).tools}
            listed = await session.call_tool(next(name for name in tools if name.endswith("backends")), {})
            making = next(name for name in tools if name.endswith("generate"))
            made = await session.call_tool(making, {"prompt": "instant", "blocks": 1})
            return tools, listed, made, tools[making]

    # In a thread: where the browser's tests ran before, this one has an event loop already.
    with ThreadPoolExecutor(1) as pool:
        tools, listed, made, generate = pool.submit(asyncio.run, talk()).result()
    assert len(tools) == 6
    assert "KV cache" in generate.description
    assert "camera moves" in json.dumps(generate.inputSchema)
    assert "pocket" in listed.content[0].text
    assert not made.isError
    assert any("QVG INT2" in getattr(part, "text", "") for part in made.content)
