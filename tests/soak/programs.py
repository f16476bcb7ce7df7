"""The program as users start it, and what it says on its way."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import httpx

ROOT = Path(__file__).resolve().parents[2]


class Program(NamedTuple):
    address: str
    pid: int
    folder: Path
    log: Path

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"


@contextmanager
def started(folder: Path, *arguments: str, **environment: str) -> Iterator[Program]:
    """`python app.py` with its files in `folder`; returns once it answers."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "log.txt"
    command = [
        sys.executable,
        str(ROOT / "app.py"),
        "--port",
        str(port),
        "--outputs",
        str(folder / "outputs"),
    ]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, *arguments],
            cwd=folder,
            env={**os.environ, "GRADIO_TEMP_DIR": str(folder / "temporary"), **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        address = f"http://127.0.0.1:{port}/"
        deadline = time.monotonic() + 90
        while True:
            try:
                httpx.get(address, timeout=5)
                break
            except httpx.HTTPError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"the program did not start:\n{log.read_text()}") from None
                time.sleep(0.1)
        yield Program(address, process.pid, folder, log)
    finally:
        process.terminate()
        assert process.wait(20) == 0, "it ends as after Ctrl-C"
