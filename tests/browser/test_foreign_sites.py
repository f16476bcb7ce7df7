"""Pages of other sites in a real browser: what they ask of a page on this machine does not reach it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.browser.conftest import ARGUMENTS, CHROMIUM, free_port, serve

# Names of an attacker's, that lead to this machine as they may anywhere.
NAMES = ("evil.example", "rebound.example")
RULES = "--host-resolver-rules=" + ",".join(f"MAP {name} 127.0.0.1" for name in NAMES)
GENERATE = ["pocket", "instant", "BF16", 1, 1, "", None, None, "", "", 0, "drop", False, None, ""]

# Each tries one way and says what it could read or open; what it could change is seen on disk.
BY_SCRIPT = """async ({ base, generate }) => {
  const read = async (path, how) => {
    try {
      return (await fetch(base + path, how)).status;
    } catch {
      return "unreadable";
    }
  };
  const json = JSON.stringify({ data: generate });
  const form = new FormData();
  form.append("files", new Blob(["of another site"]), "foreign.txt");
  const headers = { "Content-Type": "application/json" };
  return [
    await read("/config", { credentials: "include" }),
    await read("/gradio_api/call/generate", { method: "POST", headers, body: json }),
    await read("/gradio_api/call/generate", { method: "POST", body: json }),
    await read("/gradio_api/call/generate", { method: "POST", mode: "no-cors", body: json }),
    await read("/gradio_api/upload", { method: "POST", mode: "no-cors", body: form }),
    await read("/gradio_api/upload", {
      method: "POST", mode: "no-cors", body: form, referrerPolicy: "no-referrer",
    }),
  ];
}"""
BY_FORM = """({ base, enctype, path }) => new Promise((resolve) => {
  const frame = document.createElement("iframe");
  frame.name = "answer";
  const form = Object.assign(document.createElement("form"), {
    action: base + path, method: "post", enctype, target: "answer",
  });
  const input = Object.assign(document.createElement("input"), { type: "file", name: "files" });
  const files = new DataTransfer();
  files.items.add(new File(["of another site"], "foreign.txt"));
  input.files = files.files;
  form.append(input);
  document.body.append(frame, form);
  frame.addEventListener("load", () => {
    frame.remove();
    form.remove();
    resolve();
  });
  form.submit();
})"""
BY_SOCKET = """({ base }) => Promise.all([
  new EventSource(`${base}/gradio_api/heartbeat/x`, { withCredentials: true }),
  new WebSocket(`${base.replace("http", "ws")}/gradio_api/queue/join`),
].map((socket) => new Promise((resolve) => {
  socket.onopen = () => resolve("open");
  socket.onerror = () => resolve("closed");
})))"""


class Site(NamedTuple):
    port: int
    folder: Path

    def changes(self) -> list[str]:
        """What has been made in its folders."""
        files = [path for path in self.folder.rglob("*") if path.name not in (".lock", "log.txt")]
        return sorted(str(path.relative_to(self.folder)) for path in files if path.is_file())


@pytest.fixture(scope="module")
def site(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The page on loopback, with a folder of its own."""
    folder, port = tmp_path_factory.mktemp("site"), free_port()
    command = ["-m", "tests.browser.fake_app", str(port), str(folder / "outputs")]
    for _ in serve(command, port, folder / "log.txt"):
        yield Site(port, folder)


@pytest.fixture(scope="module")
def attacker() -> Iterator[int]:
    """The port of a server with an empty page."""

    class Empty(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><body></body>")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@pytest.fixture(scope="module")
def abroad(browser: Any) -> Iterator[Any]:
    """A browser that finds the attacker's names."""
    other = browser.browser_type.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, RULES])
    yield other
    other.close()


@pytest.mark.parametrize(
    ("of", "host"),
    [
        ("evil.example", "localhost."),
        ("evil.example", "127.0.0.1"),
        ("evil.example", "rebound.example"),
        ("localhost", "localhost"),
    ],
)
def test_another_site_reaches_nothing(abroad, site, attacker, of, host):
    """Nor another program's page on this machine."""
    before = site.changes()
    page = abroad.new_page()
    answers: list[tuple[str, str, int]] = []
    page.on("response", lambda it: answers.append((it.request.method, it.url, it.status)))
    page.goto(f"http://{of}:{attacker}/")
    answers.clear()
    base = f"http://{host}:{site.port}"
    read = page.evaluate(BY_SCRIPT, {"base": base, "generate": GENERATE})
    # What is asked for without CORS is answered, and the answer hidden: its status is 0.
    assert read == ["unreadable"] * 3 + [0] * 3
    for path in ("/gradio_api/upload", "/login"):
        for enctype in ("multipart/form-data", "application/x-www-form-urlencoded", "text/plain"):
            page.evaluate(BY_FORM, {"base": base, "enctype": enctype, "path": path})
    assert page.evaluate(BY_SOCKET, {"base": base}) == ["closed", "closed"]
    assert {code for _, url, code in answers if url.startswith(base)} == {403}, answers
    page.close()
    assert site.changes() == before


@pytest.mark.parametrize("host", ["localhost.", "rebound.example"])
def test_a_name_bound_to_this_machine_shows_nothing(abroad, site, host):
    """As a site has it that binds its own name anew once its script runs: to the browser, both are one."""
    before = site.changes()
    page = abroad.new_page()
    answer = page.goto(f"http://{host}:{site.port}/")
    assert answer.status == 403
    assert "--allow-host" in page.inner_text("body")
    read = page.evaluate(BY_SCRIPT, {"base": "", "generate": GENERATE})
    assert read == [403] * 6
    page.close()
    assert site.changes() == before


def test_the_page_itself_works_and_a_link_leads_to_it(abroad, site, attacker):
    """Also in a frame of another program's page, as notebooks show it."""
    page = abroad.new_page()
    page.set_default_timeout(60_000)
    page.goto(f"http://localhost:{attacker}/")
    base = f"http://localhost:{site.port}"
    framed = f"<a href={base}>there</a><iframe src={base} width=1200 height=900></iframe>"
    page.evaluate("html => { document.body.innerHTML = html }", framed)
    page.frame_locator("iframe").locator("#generate").wait_for()
    page.click("a")
    page.wait_for_selector("#generate")
    before = site.changes()
    read = page.evaluate(BY_SCRIPT, {"base": "", "generate": GENERATE})
    assert read[:2] == [200, 200] and set(read[4:]) == {200}
    assert len(site.changes()) > len(before)
    page.close()


DENIED = """
for (const name of ["localStorage", "sessionStorage"]) {
  Object.defineProperty(window, name, {
    configurable: true, get() { throw new DOMException("denied", "SecurityError"); },
  });
}
"""


def test_the_page_works_where_the_browser_denies_storage(abroad, site, attacker):
    """As in a frame of another site, where third parties may keep nothing."""
    page = abroad.new_page()
    page.set_default_timeout(60_000)
    page.add_init_script(DENIED)
    page.goto(f"http://localhost:{attacker}/")
    framed = f"<iframe src=http://localhost:{site.port} width=1200 height=900></iframe>"
    page.evaluate("html => { document.body.innerHTML = html }", framed)
    frame = page.frame_locator("iframe")
    frame.locator("#prompt textarea").fill("instant")
    frame.locator("#generate").click()
    frame.locator(".screen[data-state=final] video").wait_for()
    page.close()


@pytest.mark.parametrize("name", NAMES)
def test_no_other_site_frames_the_page(abroad, site, attacker, name):
    """To lay it, unseen, under what its visitor clicks on."""
    page = abroad.new_page()
    page.goto(f"http://{name}:{attacker}/")
    with page.expect_console_message(lambda line: "frame-ancestors" in line.text):
        framed = f"<iframe src=http://localhost:{site.port}></iframe>"
        page.evaluate("html => { document.body.innerHTML = html }", framed)
    page.close()
