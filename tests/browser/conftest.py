"""A real browser, the program on a fake worker, and a page that fails on what it should not do."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--autoplay-policy=no-user-gesture-required",
]

# Notes the number painted into every frame that is really shown, and how far apart sides are.
WATCH_FRAMES = """
window.shown = [];
const known = new WeakSet();
setInterval(() => document.querySelectorAll("#player video").forEach((video) => {
  if (known.has(video)) return;
  known.add(video);
  const canvas = document.createElement("canvas");
  const note = (_, frame) => {
    if (!video.isConnected) return;
    canvas.width = video.videoWidth; canvas.height = 16;
    const pen = canvas.getContext("2d", { willReadFrequently: true });
    pen.drawImage(video, 0, 0);
    let number = 0;
    for (let bit = 0; bit < 12; bit++) {
      number |= (pen.getImageData(bit * 16 + 8, 8, 1, 1).data[0] > 127) << bit;
    }
    const pane = video.closest(".pane")?.dataset.name;
    const loop = Boolean(video.closest(".screen[data-state=final]"));
    window.shown.push({ number, time: frame.mediaTime, loop, pane });
    video.requestVideoFrameCallback(note);
  };
  video.requestVideoFrameCallback(note);
}), 15);
window.drifts = [];
setInterval(() => {
  const videos = [...document.querySelectorAll("#player video")];
  if (videos.length < 2 || videos.some((video) => video.paused || video.seeking)) return;
  const times = videos.map((video) => video.currentTime);
  window.drifts.push(Math.max(...times) - Math.min(...times));
}, 40);
"""
# Pictures of real states are kept where this says, for people to look at.
PICTURES = os.environ.get("QVG_SCREENSHOTS")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.browser)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium on the PATH")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def serve(command: list[str], port: int, log: Path, **environment: str) -> Iterator[str]:
    """Runs a server until the generator is closed; yields its address once it answers."""
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, *command],
            cwd=ROOT,
            env={**os.environ, "GRADIO_TEMP_DIR": str(log.parent / "gradio"), **environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        address = f"http://127.0.0.1:{port}/"
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(address, timeout=5).close()
                break
            except urllib.error.HTTPError:
                break  # it has nothing there, and says so
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"the server did not start:\n{log.read_text()}")
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="session")
def fake_app(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("page")
    port = free_port()
    command = ["-m", "tests.browser.fake_app", str(port), str(folder / "outputs")]
    yield from serve(command, port, folder / "log.txt")


@pytest.fixture(scope="session")
def desktop(browser: Any) -> Any:
    """One context for many pages, so that Gradio's scripts are fetched once."""
    return browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)


@pytest.fixture
def phone(browser: Any) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    yield context
    context.close()


@pytest.fixture
def picture() -> Callable[..., None]:
    """Keeps a screenshot, where the environment asks for them."""

    def take(page: Any, name: str, full: bool = False) -> None:
        if PICTURES:
            Path(PICTURES).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=Path(PICTURES) / f"{name}.png", full_page=full)

    return take


def at_rest(page: Any, quiet_s: float = 1.0, timeout_s: float = 15.0) -> None:
    """Waits until the page has for a while neither asked for anything nor been answered."""
    last = began = time.monotonic()

    def note(_: Any) -> None:
        nonlocal last
        last = time.monotonic()

    events = ("request", "requestfinished", "requestfailed")
    for event in events:
        page.on(event, note)
    while time.monotonic() - last < quiet_s:
        assert time.monotonic() - began < timeout_s, "the page does not come to rest"
        page.wait_for_timeout(50)
    for event in events:
        page.remove_listener(event, note)


OpenPage = Callable[..., Any]


@pytest.fixture
def open_page(desktop: Any) -> Iterator[OpenPage]:
    """Opens the page at an address. At the end: no error was logged, and no other host was asked."""
    pages, complaints = [], []

    def open_at(address: str, context: Any = desktop, script: str = "") -> Any:
        page = context.new_page()
        pages.append(page)
        page.set_default_timeout(15_000)
        page.add_init_script(WATCH_FRAMES + script)
        page.on("pageerror", lambda error: complaints.append(f"page error: {error}"))
        page.on("console", lambda line: complaints.append(line.text) if line.type == "error" else None)
        page.on("request", lambda request: complaints.append(request.url) if _foreign(request.url) else None)
        page.goto(address)
        page.wait_for_selector("#generate")
        # The plan is the last thing to arrive after a load.
        page.wait_for_selector("#memory-note .note")
        return page

    yield open_at
    for page in pages:
        if not page.is_closed() and page.is_visible("#stop"):
            page.click("#stop")
        page.close()
    assert complaints == []


def _foreign(url: str) -> bool:
    return not url.startswith(("http://127.0.0.1:", "data:", "blob:"))


@pytest.fixture
def page(open_page: OpenPage, fake_app: str) -> Any:
    return open_page(fake_app)
