"""Who may see and do what, and what must not be in the program at all."""

from __future__ import annotations

import ast
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from packaging.requirements import Requirement

import app
from backends import registry
from backends.hub import artifacts
from tests.soak.conftest import Tell
from tests.soak.programs import ROOT, started
from tests.ui.fake_worker import FakeWorker
from tests.ui.page import Page
from ui.page import build
from ui.runs.manager import RunManager

SOURCES = {
    path: ast.parse(path.read_text(encoding="utf-8"))
    for path in (
        ROOT / "app.py",
        *(p for top in ("qvg", "backends", "ui") for p in (ROOT / top).rglob("*.py")),
    )
}
LOGIN = ("someone", "a password nobody would guess")
# Their commits are not known here: the first download pins what it finds, checked by the hub's own hash.
UNPINNED = {"worldplay-5b", "wan22-vae", "longcat-dit", "longcat-distilled", "taew21"}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def test_nothing_is_unpickled_or_evaluated():
    """`torch.load` takes tensors only, and nothing else reads what could be a program."""
    forbidden = re.compile(
        r"(^|\.)(pickle|cPickle|dill|joblib|marshal|shelve|cloudpickle)\.(loads?|Unpickler|open)$"
        r"|^(eval|exec)$|^yaml\.(load|unsafe_load)$|^torch\.(hub\.load|jit\.load)$|^os\.system$"
    )
    loads = 0
    for path, tree in SOURCES.items():
        for name, call in calls(tree):
            assert not forbidden.search(name), f"{path}:{call.lineno} {name}"
            keywords = {keyword.arg: keyword.value for keyword in call.keywords}
            if name.endswith("torch.load") or name == "torch.load":
                only = keywords.get("weights_only")
                assert isinstance(only, ast.Constant) and only.value is True, f"{path}:{call.lineno}"
                loads += 1
            for risky in ("allow_pickle", "trust_remote_code", "shell"):
                value = keywords.get(risky)
                assert value is None or (isinstance(value, ast.Constant) and value.value is False), (
                    f"{path}:{call.lineno} {risky}"
                )
    assert loads, "the rule has something to rule over"


def test_a_pickle_for_a_weight_file_is_not_run(tmp_path: Path):
    import pickle

    from backends.base import BackendUnavailable
    from backends.wan import checkpoint

    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    (tmp_path / "model.pt").write_bytes(pickle.dumps({"weight": Trap()}))
    with pytest.raises(BackendUnavailable, match="cannot be read"):
        checkpoint.read(tmp_path / "model.pt")
    assert not (tmp_path / "sprung").exists()


def test_it_listens_on_loopback_and_serves_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import gradio as gr

    monkeypatch.delenv("GRADIO_SERVER_NAME", raising=False)
    assert app._parser().parse_args([]).host == "127.0.0.1"
    told: dict[str, Any] = {}
    monkeypatch.setattr(gr.Blocks, "launch", lambda self, *args, **kwargs: told.update(kwargs))
    build(FakeWorker(), tmp_path / "outputs").launch()
    assert told["allowed_paths"] == [str(tmp_path / "outputs")]
    assert not told.get("share") and not told.get("show_error") and not told.get("debug")
    for tree in SOURCES.values():
        for name, call in calls(tree):
            assert name not in ("gr.set_static_paths", "set_static_paths"), call.lineno


def test_downloads_are_pinned_and_checked():
    parts = {part.id: part for spec in registry.specs() for part in artifacts.of(spec.id)}
    for part in parts.values():
        for file in part.files:
            assert not file.sha256 or re.fullmatch("[0-9a-f]{64}", file.sha256), part.id
            assert file.size or not file.path.endswith((".safetensors", ".pt", ".pth")), (part.id, file.path)
        if part.id not in UNPINNED:
            assert re.fullmatch("[0-9a-f]{40}", part.revision), part.id
            large = [file for file in part.files if file.size > 10 << 20]
            assert all(file.sha256 for file in large), part.id
    assert set(parts) >= UNPINNED - {"taew21"}


def test_dependencies_are_bounded():
    wanted = [
        Requirement(line) for line in (ROOT / "requirements.txt").read_text().splitlines() if line.strip()
    ]
    for each in wanted:
        assert any(bound.operator in (">=", "==", "~=") for bound in each.specifier), each.name
        assert each.url is None and "--" not in str(each)
    (gradio,) = (each for each in wanted if each.name == "gradio")
    assert not gradio.specifier.contains("7.0.0"), "its next major version is looked at first"


OPEN_TO_ALL = re.compile(
    # The page before the login, what it is made of, and the login itself.
    r"^/$|^/openapi\.json$|^/(static|assets|svelte)/|^/(favicon\.ico|robots\.txt|theme\.css|manifest\.json|pwa_icon.*)$"
    r"|^/(login|logout)/?$"
    r"|^/gradio_api/(user|login_check|token|app_id|startup-events|theme\.css|heartbeat/.*|custom_component/.*)/?$"
    # Without an id that only a session knows, there is nothing there.
    r"|^/gradio_api/(stream/.*|reset/?|cancel|run-history/.*|vibe.*|undo-vibe.*)$|^/monitoring/"
)


def test_a_login_is_asked_for_everything(tmp_path: Path, tell: Tell):
    """Over HTTP: the page's data, every function, its files, uploads."""
    with started(tmp_path, "--auth", ":".join(LOGIN), "--device", "cpu") as program:
        with (
            httpx.Client(base_url=program.address, timeout=30) as stranger,
            httpx.Client(base_url=program.address, timeout=30) as guest,
        ):
            (program.outputs / "run").mkdir(parents=True, exist_ok=True)
            (program.outputs / "run" / "a.mp4").write_bytes(b"a video")
            asked = [
                ("GET", "config"), ("GET", "gradio_api/info"), ("GET", "gradio_api/openapi.json"),
                ("GET", f"gradio_api/file={program.outputs}/run/a.mp4"),
                ("GET", f"gradio_api/file/{program.outputs}/run/a.mp4"),
                ("HEAD", f"gradio_api/file={program.outputs}/run/a.mp4"), ("GET", "gradio_api/queue/status"),
                ("GET", "gradio_api/queue/data?session_hash=x"), ("POST", "gradio_api/queue/join"),
                ("POST", "gradio_api/run/backends"), ("POST", "gradio_api/api/backends"),
                ("POST", "gradio_api/call/generate"), ("POST", "gradio_api/call/v2/generate"),
                ("GET", "gradio_api/call/generate/x"), ("POST", "gradio_api/component_server"),
                ("POST", "gradio_api/upload"), ("GET", "gradio_api/upload_progress?upload_id=x"),
                ("GET", "gradio_api/proxy=https://huggingface.co/"), ("GET", "monitoring"),
            ]  # fmt: skip
            for method, path in asked:
                answer = stranger.request(method, path, json={} if method == "POST" else None)
                assert answer.status_code == 401, (method, path, answer.status_code, answer.text[:200])
            # The page itself is only the login: nothing of what it shows.
            assert "outputs" not in stranger.get("").text
            for user, password in ((LOGIN[0], "wrong"), ("", ""), (LOGIN[0], ""), ("' or 1=1", "x")):
                refused = stranger.post("login", data={"username": user, "password": password})
                assert refused.status_code in (400, 401, 422), (user, refused.status_code)
                assert stranger.get("config").status_code == 401
            assert (
                stranger.get("config", cookies={"access-token": secrets.token_urlsafe()}).status_code == 401
            )
            entered = guest.post("login", data={"username": LOGIN[0], "password": LOGIN[1]})
            assert entered.status_code == 200
            cookies = entered.headers.get_list("set-cookie")
            assert cookies and all("SameSite=Lax" in each and "Secure" not in each for each in cookies)
            foreign = guest.get("config", headers={"origin": "https://evil.example"})
            assert foreign.status_code == 403
            assert "access-control-allow-origin" not in foreign.headers
            assert guest.get("config").status_code == 200
            assert guest.get(f"gradio_api/file={program.outputs}/run/a.mp4").content == b"a video"
            called = guest.post("gradio_api/call/backends", json={"data": []})
            assert called.status_code == 200
        said = program.log.read_text()
        assert LOGIN[1] not in said
        assert not re.search("Traceback", said)
    tell("login", routes=len(asked), open_to_strangers=0)


def test_every_route_asks_for_the_login_or_is_known_to_be_open(tmp_path: Path):
    """A new version of Gradio may bring more."""
    page = build(FakeWorker(), tmp_path / "outputs")
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, server_port=None, auth=LOGIN)
    try:
        paths = _paths(page.app)
        unknown = []
        with httpx.Client(base_url=address, timeout=10) as stranger:
            for path, methods in paths:
                filled = re.sub(r"\{[^}]*\}", "x", path)
                if OPEN_TO_ALL.search(filled):
                    continue
                for method in methods & {"GET", "POST"}:
                    answer = stranger.request(
                        method, filled.lstrip("/"), json={} if method == "POST" else None
                    )
                    if answer.status_code not in (401, 404, 405, 422):
                        unknown.append((method, path, answer.status_code))
        assert unknown == []
        assert len(paths) > 40
    finally:
        page.close()


def _paths(application: Any) -> list[tuple[str, set[str]]]:
    found: list[tuple[str, set[str]]] = []

    def visit(routes: Any, prefix: str) -> None:
        for route in routes:
            inner = getattr(getattr(route, "original_router", None), "routes", None)
            if inner is not None:
                visit(inner, prefix + getattr(route, "prefix", ""))
            elif getattr(route, "methods", None):
                found.append((prefix + route.path, set(route.methods)))

    visit(application.routes, "")
    return found


FORGED = (
    "/etc/passwd", "/proc/self/environ", "../../etc/passwd", "file:///etc/passwd", "http://127.0.0.1:1/a.png",
    "http://[::1]:1/a.png", "http://localhost.:1/", "ftp://a/b", "/nothing", "", "a\0b", "a\nb", "x" * 5000,
)  # fmt: skip


def test_a_forged_address_of_a_file_is_one_line_in_the_log(tmp_path: Path, caplog, capfd):
    """And the same sentence, whether there is such a file or not."""
    page = build(FakeWorker(), tmp_path / "outputs")
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True)
    inputs = ["pocket", "a box", "BF16", 1, 1, "", None, None, "", "", 0, "drop", False, None, ""]
    told = []
    try:
        with httpx.Client(base_url=f"{address}gradio_api/call/", timeout=30) as client:
            for path in FORGED:
                inputs[6] = {"path": path, "meta": {"_type": "gradio.FileData"}}
                asked = client.post("generate", json={"data": inputs})
                told.append(client.get(f"generate/{asked.json()['event_id']}").text)
    finally:
        page.close(verbose=False)
    assert all("event: error" in each and "this page" in each.lower() for each in told)
    assert told[0] == told[8]
    lines = [record.getMessage() for record in caplog.records if record.name == "ui.server.http_errors"]
    assert len(lines) == len(FORGED)
    assert all("\n" not in line and len(line) < 400 for line in lines)
    assert "Traceback" not in "".join(capfd.readouterr())
    assert not (tmp_path / "outputs").exists()


def test_an_mcp_server_is_not_a_way_around_the_login(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Gradio mounts it beside the page, and its tools answered anyone."""
    page = build(FakeWorker(), tmp_path)
    with pytest.raises(ValueError, match="MCP server asks for no login"):
        page.launch(auth=LOGIN, mcp_server=True)
    monkeypatch.setenv("GRADIO_MCP_SERVER", "True")
    with pytest.raises(ValueError, match="MCP server asks for no login"):
        page.launch(auth=LOGIN)
    monkeypatch.setattr(app, "_port_problem", lambda host, port: "")
    monkeypatch.setattr(
        "sys.argv", ["app.py", "--mcp", "--auth", ":".join(LOGIN), "--outputs", str(tmp_path)]
    )
    with pytest.raises(SystemExit, match="MCP server asks for no login"):
        app.main()


def test_visitors_of_a_shared_page_reach_their_own_runs_only(tmp_path: Path):
    """By whatever id they guess, or have seen."""
    manager = RunManager(FakeWorker(block_seconds=0.0), tmp_path)
    manager.shared = True
    hers, his = Page(manager, "her secret"), Page(manager, "his secret")
    hers.run()
    run_id = hers.run_id
    his.run()
    record = manager.find(manager.owner(hers.visitor), run_id)
    assert record is not None
    for name in ("show", "again", "recall", "delete"):
        asked = len(manager.worker.jobs)  # type: ignore[attr-defined]
        his.press(his.runs.history, id=run_id, action=name)
        assert run_id not in [card["id"] for card in his.history]
        assert len(manager.worker.jobs) == asked, name  # type: ignore[attr-defined]
    assert [set(each) for each in his.runs.export_json(his.request, his.visitor, run_id)] == [
        {his.ui.problem}
    ]
    asked = len(manager.worker.jobs)  # type: ignore[attr-defined]
    his.watch(his.runs.extend(his.request, his.visitor, run_id, 4, ""))
    his.watch(his.runs.retake(his.request, his.visitor, run_id))
    his.see(his.runs.again(his.request, his.visitor, run_id))
    assert len(list(his.runs.watch(his.request, his.visitor))) == 1
    assert len(manager.worker.jobs) == asked  # type: ignore[attr-defined]
    his.runs.stop(his.request, his.visitor, run_id)
    his.runs.undo(his.request, his.visitor, run_id)
    assert not record.stopping and record.presenter.blocks == 8
    assert hers.final().exists()
    # An id is 128 bits; the folder is called by it, and what it says of its owner does not let anyone in.
    assert len(run_id) >= 22
    assert manager.owner(manager.owner("her secret")) != manager.owner("her secret")
    for visitor in ("", "a", hers.visitor + " ", manager.owner("her secret")):
        assert manager.find(manager.owner(visitor), run_id) is None


def test_a_token_is_never_said(tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd, monkeypatch):
    """Typed on the page, it is neither in what the page shows, nor in a log, nor in a file."""
    import logging

    from huggingface_hub import constants

    from tests.backends.hub.fake_hub import FakeHub
    from ui.runs.downloads import Models

    token = "hf_" + secrets.token_hex(16)
    hub = FakeHub()
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    monkeypatch.setattr(artifacts, "_check_room", lambda needed: None)
    stock = Models()
    with caplog.at_level(logging.DEBUG):
        for fault in ({"token": "another"}, {"gated": True}, {"status": 500}, {"files": {}}):
            for name, value in {"token": "", "gated": False, "status": 0, **fault}.items():
                setattr(hub, name, value)
            begun = _download()
            stock._fetch("longcat", begun, True, token)
            assert begun.problem and token not in begun.problem
    hub.close()
    assert any(f"Bearer {token}" == request[3] for request in hub.requests), "it was used"
    assert token not in caplog.text + "".join(capfd.readouterr()) + str(stock.listing())
    assert not [
        path for path in tmp_path.rglob("*") if path.is_file() and token.encode() in path.read_bytes()
    ]


def _download() -> Any:
    from ui.runs.downloads import _Download

    return _Download()
