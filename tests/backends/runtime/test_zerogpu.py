"""The program on a ZeroGPU Space: a mock of its device API; `spaces` itself forks, pickles and leases."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlparse

import pytest
import torch

from backends import registry
from backends.camera import CameraMove
from backends.checkup import Part
from backends.events import Done, Failed, Loading, Queued, Update
from backends.runtime import zerogpu
from tests.backends.runtime.test_worker import finish, job, until
from tests.browser.conftest import free_port
from tests.fake_backend import SPEC
from ui.runs import mp4

pytest.importorskip("spaces")
ROOT = Path(__file__).resolve().parents[3]
POCKET = next(entry for entry in registry.entries() if entry.spec.id == "pocket")
here = pytest.mark.skipif(
    POCKET.missing is not None or sys.platform != "linux", reason="needs Pocket World, and Linux to fork"
)


class Space:
    """What a Space's host answers, and what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, str]]] = []
        outer = self

        class Answer(BaseHTTPRequestHandler):
            def do_POST(self):
                url = urlparse(self.path)
                query = {name: values[0] for name, values in parse_qs(url.query).items()}
                outer.asked.append((url.path, query))
                number = len(outer.of("/schedule"))
                lent = {
                    "idle": number > 1, "nvidiaIndex": 0, "nvidiaUUID": "GPU-x", "allowToken": f"t{number}",
                }  # fmt: skip
                body = json.dumps(lent if url.path == "/schedule" else {}).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def of(self, path: str) -> list[dict[str, str]]:
        return [query for asked, query in self.asked if asked == path]


def forked(pid: int) -> list[int]:
    """The processes a process has made."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    from gradio_client import Client

    host, port, folder = Space(), free_port(), tmp_path_factory.mktemp("space")
    log = folder / "log.txt"
    with log.open("w") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.backends.runtime.zerogpu_space",
                str(port),
                str(folder / "outputs"),
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "SPACES_ZERO_GPU": "true",
                "SPACES_ZERO_DEVICE_API_URL": host.address,
                "SPACE_ID": "owner/studio",
                "GRADIO_TEMP_DIR": str(folder / "gradio"),
                # Kernels are interpreted or not made at all: no process compiles them beside the forked ones.
                "TRITON_INTERPRET": "1",
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                client = Client(
                    f"http://127.0.0.1:{port}/", verbose=False, download_files=str(folder / "downloads")
                )
                break
            except Exception:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"the Space did not start:\n{log.read_text()}")
                time.sleep(0.3)
        yield SimpleNamespace(host=host, client=client, log=log, process=process, outputs=folder / "outputs")
    finally:
        # The forked ones outlive the program.
        left = forked(process.pid)
        process.terminate()
        process.wait(20)
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        host.server.shutdown()


@here
@pytest.mark.slow
def test_runs_on_a_gpu_that_is_lent(space):
    host, client = space.host, space.client
    assert len(host.of("/startup-report")) == 1

    def make(**asked: Any) -> tuple[list[str], dict[str, Any]]:
        return client.predict(prompt="a red box", path="w-8", api_name="/generate", **asked)

    (video,), made = make(blocks=1)
    assert mp4.read_settings(Path(video))["made"]["frames"] == 4
    assert made["device"].startswith("ZeroGPU")
    make(blocks=1, codec="BF16")
    assert len(forked(space.process.pid)) == 1, "what is idle is lent again"
    first, second = (int(query["durationSeconds"]) for query in host.of("/schedule"))
    assert min(first, second) >= 20

    # Stop reaches the process in the middle of a block, and the lease ends.
    job = client.submit(prompt="a red box", path="w-8", blocks=90, api_name="/generate")
    deadline = time.monotonic() + 60
    while not any(told["blocks"] for _, told in job.outputs()):
        assert time.monotonic() < deadline, space.log.read_text()
        time.sleep(0.1)
    assert int(host.of("/schedule")[-1]["durationSeconds"]) > max(first, second), "a longer run asks for more"
    leases = len(host.of("/release"))
    stopped = time.monotonic()
    job.cancel()
    while len(host.of("/release")) == leases:
        assert time.monotonic() - stopped < 20, space.log.read_text()
        time.sleep(0.05)
    assert "Traceback" not in space.log.read_text()


@pytest.fixture
def worker(monkeypatch):
    """Where no GPU is lent `spaces` changes nothing: runs are made in this process. One at a time."""
    monkeypatch.setattr(zerogpu.registry, "find", lambda backend_id: SPEC)
    monkeypatch.setattr(zerogpu, "_runners", {})
    monkeypatch.setattr(zerogpu, "SLOTS", 1)
    return zerogpu.ZeroWorker("tests.fake_backend:load")


def test_one_run_after_another_where_one_gpu_is_lent(worker):
    assert worker.info == zerogpu.LENT
    first, second, third = (
        worker.submit(job("delay=0.05")),
        worker.submit(job()),
        worker.submit(job(blocks=3)),
    )
    assert [second.place, third.place] == [1, 2]
    third.move(1)
    assert [second.place, third.place] == [2, 1]
    second.stop()
    assert finish(second)[-1] == zerogpu.NOTHING_MADE
    made = finish(first)
    assert isinstance(made[0], Loading)
    assert "20 s of its GPU" in made[0].text
    assert isinstance(made[-1], Done)
    events = finish(third)
    assert sum(isinstance(event, Update) for event in events) == 3
    assert any(isinstance(event, Queued) for event in events)
    assert worker.info.kind == "cpu", "what was lent has been looked at"


def test_stop_steering_and_a_video_that_is_gone_on_with(worker):
    run = worker.submit(replace(job("delay=0.05", blocks=400), video="a video"))
    run.steer(("w", "left"))
    seen = until(run, Update)
    run.steer(("d",))
    seen += until(run, Update)
    run.stop()
    seen += finish(run)
    moves = [event.move for event in seen if isinstance(event, Update)]
    assert CameraMove(("w", "left")) in moves
    done = seen[-1]
    assert (done.stopped, done.kept_bytes) == (True, 0)
    again = finish(worker.submit(replace(job(blocks=4), video="a video", first_block=2)))
    assert [event.segment.index for event in again if isinstance(event, Update)] == [2, 3]
    assert again[-1].kept_bytes == 0


def test_a_run_asks_for_as_long_as_the_last_ones_took(worker):
    assert worker.seconds(SPEC.id, 2) == 20
    guessed = worker.seconds(SPEC.id, 200)
    assert guessed == pytest.approx(1.4 * 200 + 8, abs=1)
    finish(worker.submit(job(blocks=2)))
    assert worker.seconds(SPEC.id, 200) < guessed, "these blocks take milliseconds"
    many = job(blocks=200)
    two = replace(many, sides=(*many.sides, replace(many.sides[0], ends_after=100)))
    worker._block_s[SPEC.id], worker._load_s[SPEC.id] = 2.0, 10.0
    asked = worker.seconds(SPEC.id, 300)
    assert asked == pytest.approx(1.4 * (2 * 300 + 10) + 8, abs=1)
    run = worker.submit(two)
    assert f"Asking the Space for {asked} s" in until(run, Loading)[-1].text
    run.stop()
    finish(run)


def test_a_gpu_that_is_not_lent_is_a_sentence(worker, monkeypatch):
    def refuse(*_):
        raise RuntimeError("You have exceeded your GPU quota")
        yield

    monkeypatch.setattr(zerogpu, "on_gpu", refuse)
    last = finish(worker.submit(job()))[-1]
    assert isinstance(last, Failed)
    assert "You have exceeded your GPU quota. What was made so far is kept." in last.message
    monkeypatch.undo()


def test_a_generator_is_loaded_ahead_and_one_that_cannot_be_does_no_harm(monkeypatch):
    monkeypatch.setattr(zerogpu, "_runners", {})
    threads = torch.get_num_threads()
    try:
        worker = zerogpu.ZeroWorker("tests.fake_backend:load", preload=["absent", SPEC.id])
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setattr(zerogpu.registry, "find", lambda backend_id: SPEC)
    events = finish(worker.submit(job()))
    assert not any("Loading fake" in event.text for event in events if isinstance(event, Loading))


class Compiling:
    """A process that compiles until it is let go."""

    def __init__(self, uses, cards, ended: bool = False) -> None:
        self.uses, self.cards, self.ended = list(uses), tuple(cards), ended

    def poll(self) -> int | None:
        return 0 if self.ended else None


@pytest.fixture
def compilers(monkeypatch):
    started: list[Compiling] = []

    def start_process(uses, cards) -> Compiling:
        started.append(Compiling(uses, cards))
        return started[-1]

    monkeypatch.setattr(zerogpu.warmup, "possible", lambda: True)
    monkeypatch.setattr(zerogpu.warmup, "start_process", start_process)
    monkeypatch.setattr(zerogpu.warmup, "LOOK_S", 0.01)
    return started


def test_kernels_are_compiled_before_a_gpu_is_asked_for(worker, compilers):
    run = worker.submit(job())
    seen = until(run, Loading)
    assert seen[-1].text == "Compiling kernels for BF16, before a GPU is requested."
    (process,) = compilers
    assert process.cards == zerogpu.CARDS == ("sm_120",)
    assert process.uses == [zerogpu.Use.of(run.job)]
    assert not any("of its GPU" in event.text for event in seen if isinstance(event, Loading))
    process.ended = True
    events = finish(run)
    assert isinstance(events[-1], Done) and not events[-1].stopped
    # Once is enough.
    finish(worker.submit(job()))
    assert len(compilers) == 1


def test_a_run_that_is_stopped_while_it_compiles_asks_for_no_gpu(worker, compilers, monkeypatch):
    asked = []
    monkeypatch.setattr(zerogpu, "on_gpu", lambda *_: asked.append(1) or iter(()))
    run = worker.submit(job())
    until(run, Loading)
    run.stop()
    assert finish(run)[-1] == zerogpu.NOTHING_MADE
    assert not asked


def test_a_compiler_that_cannot_be_started_costs_nothing_but_time(worker, compilers, monkeypatch):
    def fail(uses, cards):
        raise OSError("Cannot allocate memory")

    monkeypatch.setattr(zerogpu.warmup, "start_process", fail)
    assert isinstance(finish(worker.submit(job()))[-1], Done)


def test_what_visitors_begin_with_is_compiled_in_the_background_at_the_start(compilers, monkeypatch):
    monkeypatch.setattr(zerogpu, "_runners", {})
    zerogpu.ZeroWorker()
    (process,) = compilers
    here = [entry.spec.id for entry in registry.entries() if entry.missing is None]
    assert [use.backend_id for use in process.uses] == here
    assert {use.name for use in process.uses} == {zerogpu.warmup.PRESET}


def test_the_report_is_of_the_space_and_of_what_is_lent(worker, monkeypatch, tmp_path):
    found = [
        Part(name, name, (f"{name}.",)) for name in ("software", "device", "attention", "kernels", "memory")
    ]
    monkeypatch.setattr(zerogpu.checkup, "elsewhere", lambda device, outputs: found)
    told = worker.about(tmp_path)
    assert [part.id for part in told] == ["device", "software", "memory"]
    assert "a GPU is lent for every run" in told[0].sentences[0]
