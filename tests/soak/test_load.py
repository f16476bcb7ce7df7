"""Many clients at once on the real program: in order, none lost, and the page stays quick."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from gradio_client import Client

from tests.soak.conftest import FULL, Tell
from tests.soak.managers import alive, rss_mib, until
from tests.soak.programs import Program, started

CLIENTS = 50 if FULL else 4
MINUTES = float(os.environ.get("QVG_SOAK_MINUTES", "30")) if FULL else 0.0
LATENCY_S, GROWTH_MIB, FREED_S = 0.2, 60.0, 5.0


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with started(tmp_path_factory.mktemp("load"), "--device", "cpu") as program:
        warm = Client(program.address, verbose=False)
        warm.predict(prompt="a box", blocks=1, api_name="/generate")
        yield program
        children = psutil.Process(program.pid).children(recursive=True)
    until(lambda: not any(alive(child.pid) for child in children), "the worker ends with its page", 10)
    assert not list(program.outputs.rglob("segment-*")), "blocks of finished videos go with the program"


class Probe:
    """Asks for what a page asks for, all the time, and notes how long it takes."""

    def __init__(self, program: Program) -> None:
        self.seconds: dict[str, list[float]] = {"page": [], "map": []}
        self._program = program
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join(30)

    def _ask(self) -> None:
        with httpx.Client(base_url=self._program.address, timeout=60) as client:
            config = client.get("config").json()
            chart = next(
                each["id"]
                for each in config["components"]
                if "write" in (each["props"].get("server_fns") or [])
            )
            asked = {"data": {"model": "pocket", "path": "w-8", "kind": "moves"}, "fn_name": "write"}
            while not self._over.wait(0.1):
                began = time.monotonic()
                client.get("").raise_for_status()
                self.seconds["page"].append(time.monotonic() - began)
                began = time.monotonic()
                body = {**asked, "component_id": chart, "session_hash": "probe"}
                client.post("gradio_api/component_server", json=body).raise_for_status()
                self.seconds["map"].append(time.monotonic() - began)

    def told(self) -> dict[str, str]:
        return {
            name: f"{1e3 * statistics.median(seconds):.0f} ms median, {1e3 * self.late(name):.0f} ms of 95 %"
            for name, seconds in self.seconds.items()
        }

    def late(self, name: str) -> float:
        seconds = sorted(self.seconds[name])
        return seconds[int(0.95 * (len(seconds) - 1))]


def test_many_clients_at_once(program: Program, tell: Tell):
    worker = psutil.Process(program.pid).children(recursive=True)[-1].pid
    clients = [Client(program.address, verbose=False) for _ in range(CLIENTS)]
    ends, rounds, lost, memory = time.monotonic() + 60 * MINUTES, 0, 0, []
    with Probe(program) as probe:
        while not rounds or time.monotonic() < ends:
            known = set(program.outputs.glob("2*"))
            jobs = [
                client.submit(prompt="a box", blocks=1, seed=number, api_name="/generate")
                for number, client in enumerate(clients)
            ]
            for number, job in enumerate(jobs):
                (video,), made = job.result(600)
                lost += made["seed"] != number or made["made"]["frames"] != 4 or not Path(video).exists()
            new = sorted(set(program.outputs.glob("2*")) - known)
            assert len(new) == CLIENTS
            queued = sorted(new, key=lambda folder: json.loads((folder / "run.json").read_text())["order"])
            ended = [next(folder.glob("*.mp4")).stat().st_mtime for folder in queued]
            assert ended == sorted(ended), "served out of order"
            rounds += 1
            memory.append((rss_mib(program.pid), rss_mib(worker)))
    # What eight remembered runs and a warm interpreter take is there after the first rounds.
    settled = memory[min(2, len(memory) - 1)]
    growth = [after - before for before, after in zip(settled, memory[-1], strict=True)]
    tell(
        "load", clients=CLIENTS, rounds=rounds, served=CLIENTS * rounds, lost=lost, out_of_order=0,
        **probe.told(), page_memory=f"{growth[0]:+.1f} MiB", worker_memory=f"{growth[1]:+.1f} MiB",
    )  # fmt: skip
    assert lost == 0
    if FULL:
        assert probe.late("page") < LATENCY_S and probe.late("map") < LATENCY_S
        assert max(growth) < GROWTH_MIB
    said = program.log.read_text()
    assert "Traceback" not in said, said[-4000:]


# A client that is gone from one moment to the next.
LEAVER = """
import sys
from gradio_client import Client
job = Client(sys.argv[1], verbose=False).submit(prompt="a box", blocks=100, api_name="/generate")
for _ in job:
    print("seen", flush=True)
"""


def test_a_client_that_leaves_frees_its_place(program: Program, tell: Tell):
    times = {"running": 10 if FULL else 1, "waiting": 10 if FULL else 1}
    slowest = dict.fromkeys(times, 0.0)
    for kind, count in times.items():
        for _ in range(count):
            ahead = None
            if kind == "waiting":
                ahead = Client(program.address, verbose=False).submit(
                    prompt="a box", blocks=100, api_name="/generate"
                )
                until(
                    lambda job=ahead: any("running" in str(told) for told in job.outputs()),
                    "the first one runs",
                )
            leaver = subprocess.Popen(
                [sys.executable, "-c", LEAVER, program.address], stdout=subprocess.PIPE, text=True
            )
            assert leaver.stdout is not None and leaver.stdout.readline() == "seen\n"
            behind = Client(program.address, verbose=False).submit(
                prompt="a box", blocks=1, api_name="/generate"
            )
            place = "number 2" if kind == "waiting" else "you are next"
            until(
                lambda job=behind, place=place: any(place in str(told) for told in job.outputs()), "its place"
            )
            leaver.kill()
            leaver.wait()
            left = time.monotonic()
            # It moves up: to the device, or to the place in front of it.
            until(lambda job=behind, place=place: place not in str(job.outputs()[-1]), "the place is free")
            slowest[kind] = max(slowest[kind], time.monotonic() - left)
            for job in filter(None, (ahead, behind)):
                job.cancel()
            until(lambda: not _unfinished(program), "nothing is left in the queue", 30)
    assert max(slowest.values()) < FREED_S
    tell(
        "a client that leaves",
        times=sum(times.values()),
        **{k: f"place free after {v:.2f} s" for k, v in slowest.items()},
    )


def _unfinished(program: Program) -> list[Path]:
    found = []
    for file in program.outputs.glob("*/run.json"):
        try:
            if json.loads(file.read_text())["state"] != "done":
                found.append(file)
        except OSError:
            continue  # removed meanwhile
    return found
