"""Launcher of the page for notebooks: in its own process, shown through Jupyter's address where necessary.

A notebook's browser may run on another machine than its kernel. There `127.0.0.1` is the wrong machine, and
jupyter-server-proxy serves the page under a path of Jupyter's address instead.
"""

from __future__ import annotations

import atexit
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_TIMEOUT_S = 120  # the first start on a machine reads gigabytes of packages from its disk
_INSTALL = "pip install jupyter-server-proxy, and start Jupyter again"


@dataclass(frozen=True, slots=True)
class Place:
    """Address at which a browser finds the page. `address` may be a path of Jupyter's own address.

    `root_path` is the page's path behind a proxy; "" at the top of its address.
    """

    address: str
    root_path: str
    said: str  # a sentence for the notebook


def find(
    port: int,
    environment: Mapping[str, str] = os.environ,
    proxied: bool | None = None,
    base: str | None = None,
) -> Place:
    """Returns the address of a page on `port`, as seen from this notebook.

    `proxied` is whether jupyter-server-proxy is installed, and `base` the path of the Jupyter server that
    started this kernel, None for a kernel without one; both are looked up by default.
    """
    if proxied is None:
        proxied = find_spec("jupyter_server_proxy") is not None
    hub = environment.get("JUPYTERHUB_SERVICE_PREFIX")
    base = hub or (_server_base(environment) if base is None else base)
    local = f"http://127.0.0.1:{port}/"
    if base is None:
        return Place(local, "", f"The page is at {local} on this machine.")
    path = f"/{base.strip('/')}/proxy/{port}".replace("//", "/")
    if hub or proxied:
        sentence = f"The page is behind Jupyter's own address, at {path}/."
        sentence += "" if proxied else f" If it stays empty: {_INSTALL}."
        return Place(f"{path}/", path, sentence)
    return Place(
        local, "", f"The page is at {local} on the machine that runs Jupyter. From another one: {_INSTALL}."
    )


def _server_base(environment: Mapping[str, str]) -> str | None:
    """Returns the path of the Jupyter server that started this kernel, from the server's own file."""
    from jupyter_core.paths import jupyter_runtime_dir

    file = Path(jupyter_runtime_dir()) / f"jpserver-{environment.get('JPY_PARENT_PID', '')}.json"
    try:
        return str(json.loads(file.read_text(encoding="utf-8"))["base_url"])
    except (OSError, ValueError, KeyError):
        return None


class Page:
    """A running page. `local` is its address for programs on this machine."""

    def __init__(self, process: subprocess.Popen[bytes], place: Place, port: int) -> None:
        self.place, self.port = place, port
        self.local = f"http://127.0.0.1:{port}/"
        self._process = process
        atexit.register(self.stop)

    def stop(self) -> None:
        """Ends the page and its model. Can be called again."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
        atexit.unregister(self.stop)

    def _repr_html_(self) -> str:
        """Returns HTML that shows the page below a cell, with a link to it alone; in Colab through Colab's
        own proxy."""
        if "google.colab" in sys.modules:
            output: Any = import_module("google.colab").output
            output.serve_kernel_port_as_iframe(self.port, height="900")
            return "<p>The page is shown through Colab's proxy.</p>"
        address = escape(self.place.address)
        return (
            f'<p>{escape(self.place.said)} <a href="{address}" target="_blank">Open it in its own tab</a></p>'
            f'<iframe src="{address}" style="width: 100%; height: 900px; border: 1px solid #ddd"></iframe>'
        )


_running: dict[int, Page] = {}  # by port; pages of this kernel


def start(port: int, outputs: Path) -> Page:
    """Starts the page and returns once it answers; a page that this kernel runs on `port` is stopped first.

    Raises RuntimeError with the program's output if it ends.
    """
    if port in _running:
        _running.pop(port).stop()
    if _answers(port):
        raise RuntimeError(f"Port {port} is taken: stop what runs there, or choose another PORT.")
    place = find(port)
    command = [sys.executable, str(ROOT / "app.py"), "--port", str(port), "--outputs", str(outputs)]
    command += ["--root-path", place.root_path] if place.root_path else []
    environment = {**os.environ, "GRADIO_SERVER_NAME": "127.0.0.1"}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        page = Page(process, place, port)
        deadline = time.monotonic() + _TIMEOUT_S
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                page.stop()
                log.seek(0)
                raise RuntimeError(log.read().decode(errors="replace").strip() or "The page did not start.")
            time.sleep(0.2)
    _running[port] = page
    return page


def _answers(port: int) -> bool:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy: its 127.0.0.1 differs
    try:
        opener.open(f"http://127.0.0.1:{port}/", timeout=5).close()
    except OSError as error:
        return isinstance(error, urllib.request.HTTPError)
    return True


def download(model: str, accepted_licence: bool = False) -> None:
    """Downloads a model's files, with a progress bar. Shows errors as sentences."""
    from IPython.display import HTML, display

    from backends.base import BackendUnavailable
    from backends.hub import artifacts
    from backends.sizes import file_size

    shown: Any = display(HTML("<p>Looking at what is here.</p>"), display_id=True)

    def show(progress: artifacts.DownloadProgress) -> None:
        done, total = (file_size(size) for size in (progress.done_bytes, progress.total_bytes))
        doing = "checking" if progress.checking else "receiving"
        shown.update(
            HTML(
                f'<progress value="{progress.done_bytes}" max="{progress.total_bytes}"></progress> '
                f"{done} of {total}, {doing} {escape(progress.file)}"
            )
        )

    try:
        artifacts.download(model.replace("-", "_"), show, accepted_license=accepted_licence)
        shown.update(HTML("<p>All here.</p>"))
    except (BackendUnavailable, LookupError) as error:
        shown.update(HTML(f"<p>{escape(str(error))}</p>"))
    except KeyboardInterrupt:
        shown.update(HTML("<p>Stopped. What arrived is kept: run this cell again to go on.</p>"))
