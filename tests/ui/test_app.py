"""The program's front door: arguments, ports, and what importing it must not do."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import app

ROOT = Path(__file__).resolve().parents[2]
PROXY = "http://127.0.0.1:9"  # where nobody listens


def python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_help_does_not_import_gradio():
    run = "import runpy, sys\nsys.argv = [0, '--help']\ntry: runpy.run_path('app.py', run_name='__main__')"
    ran = python("-c", f"{run}\nfinally: print('gradio' in sys.modules, 'torch' in sys.modules)")
    assert "--outputs DIR" in ran.stdout
    assert ran.stdout.strip().endswith("False False")


def test_importing_the_program_builds_no_page():
    code = "import app, sys; print('gradio' in sys.modules); app.nothing"
    ran = python("-c", code)
    assert ran.stdout.strip() == "False"
    assert "has no attribute 'nothing'" in ran.stderr


def test_demo_is_the_page_with_its_launch_settings(monkeypatch, tmp_path):
    import gradio as gr

    seen = {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(gr.Blocks, "launch", lambda self, *args, **kwargs: seen.update(kwargs))
    app.__dict__.pop("demo", None)
    demo = app.demo
    assert app.demo is demo
    demo.launch(server_port=1234)
    app.__dict__.pop("demo", None)
    assert seen["server_port"] == 1234
    assert seen["theme"] is not None
    assert ".gauge" in seen["css"]
    assert seen["allowed_paths"] == [str((tmp_path / "outputs").resolve())]
    assert seen["run_history"] is False
    assert seen["ssr_mode"] is False
    assert not (tmp_path / "outputs").exists()
    assert os.environ["GRADIO_ANALYTICS_ENABLED"] == "False"


def test_a_launch_setting_of_ones_own_wins(monkeypatch, tmp_path):
    import gradio as gr

    from tests.ui.fake_worker import FakeWorker
    from ui.page import build

    seen = {}
    monkeypatch.setattr(gr.Blocks, "launch", lambda self, *args, **kwargs: seen.update(kwargs))
    build(FakeWorker(), tmp_path).launch(css="", max_file_size="1mb")
    assert seen["css"] == ""
    assert seen["max_file_size"] == "1mb"


def test_a_taken_port_is_a_sentence():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ran = python("app.py", "--port", str(port))
    assert ran.returncode == 1
    assert (
        ran.stderr.strip()
        == f"Port {port} is taken on 127.0.0.1: stop what runs there, or choose another with --port."
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--port", "99999"], "does not exist"),
        (["--port", "x"], "invalid int value"),
        (["--port", "0"], "does not exist"),
        (["--host", "no.such.host.invalid"], "There is no address"),
        (["--host", "192.0.2.1"], "There is no address"),
        (["--host", "[::1"], "There is no address"),
        (["--host", "a" * 70], "There is no address"),
        (["--auth", "user"], "write user:password"),
        (["--auth", "user:"], "write user:password"),
        (["--keep-gib", "-1"], "write a whole number from 0"),
        (["--device", "tpu"], "invalid choice"),
    ],
)
def test_wrong_arguments_are_explained(arguments, words):
    ran = python("app.py", *arguments)
    assert ran.returncode != 0
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("GRADIO_SERVER_PORT", "x", "invalid int value"),
        ("GRADIO_SERVER_NAME", "no.such.host.invalid", "There is no address"),
        ("GRADIO_NUM_PORTS", "many", "GRADIO_NUM_PORTS is 'many'"),
        ("SSL_CERT_FILE", "/dev/null/nothing", "SSL_CERT_FILE is '/dev/null/nothing'"),
        ("QVG_STUDIO_AUTH", "user", "write user:password"),
        ("QVG_STUDIO_KEEP_HOURS", "a day", "write a whole number from 0"),
    ],
)
def test_a_wrong_environment_is_explained(name, value, words):
    ran = python("app.py", **{name: value})
    assert ran.returncode != 0
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_port_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("GRADIO_SERVER_PORT", "8123")
    assert app._parser().parse_args([]).port == 8123


def test_a_login_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("QVG_STUDIO_AUTH", "user:pass:word")
    assert app._parser().parse_args([]).auth == ("user", "pass:word")
    assert app._parser().parse_args(["--auth", "other:word"]).auth == ("other", "word")


def test_how_long_videos_are_kept_comes_from_the_environment(monkeypatch):
    options = app._parser().parse_args(["--keep-gib", "0"])
    assert (options.keep_hours, options.keep_gib) == (24, 0)
    monkeypatch.setenv("QVG_STUDIO_KEEP_HOURS", "1")
    monkeypatch.setenv("QVG_STUDIO_KEEP_GIB", "2")
    options = app._parser().parse_args(["--keep-gib", "3"])
    assert (options.keep_hours, options.keep_gib) == (1, 3)


def test_a_login_may_hold_colons():
    assert app._parser().parse_args(["--auth", "user:pass:word"]).auth == ("user", "pass:word")


def test_a_space_keeps_its_videos_out_of_its_own_folder(monkeypatch):
    monkeypatch.setenv("SPACE_ID", "someone/space")
    assert app._default_outputs().is_absolute()


@pytest.fixture
def unopened(monkeypatch, tmp_path):
    """A page whose `launch` opens nothing, on a machine that is nothing special."""
    import gradio as gr

    from tests.ui.fake_worker import FakeWorker
    from ui.page import build

    monkeypatch.setattr(gr.Blocks, "launch", lambda self, **kwargs: kwargs)
    for name in ("SPACE_ID", "GRADIO_SHARE", "KAGGLE_KERNEL_RUN_TYPE", "GRADIO_MCP_SERVER"):
        monkeypatch.delenv(name, raising=False)
    return build(FakeWorker(), tmp_path)


@pytest.mark.parametrize(
    ("how", "args", "settings", "shared"),
    [
        ("", (), {}, False),
        ("", (), {"share": True}, True),
        ("", (None, False, True), {}, True),
        ("", (None, False, False), {}, False),
        ("GRADIO_SHARE=True", (), {}, True),
        ("GRADIO_SHARE=true", (), {"share": None}, True),
        ("GRADIO_SHARE=True", (), {"share": False}, False),
        ("GRADIO_SHARE=False", (), {}, False),
        ("KAGGLE_KERNEL_RUN_TYPE=Interactive", (), {}, True),
        ("KAGGLE_KERNEL_RUN_TYPE=Interactive", (None, False, False), {}, False),
        ("SPACE_ID=someone/space", (), {"share": False}, True),
        ("colab", (), {}, True),
        ("colab", (), {"share": False}, False),
    ],
)
def test_a_shared_page_is_one_of_strangers(monkeypatch, unopened, how, args, settings, shared):
    from ui import page

    name, given, value = how.partition("=")
    if given:
        monkeypatch.setenv(name, value)
    elif how:
        monkeypatch.setattr(page, "colab_check", lambda: True)
    unopened.launch(*args, **settings)
    assert unopened._manager.shared is shared


def test_a_page_that_is_shared_stays_so(unopened):
    unopened.share_url = "https://1a2b3c.gradio.live"
    unopened.launch()
    assert unopened._manager.shared is True


@pytest.mark.parametrize(
    ("shared", "hours", "kept"), [(True, 2, 2), (True, 100, 24), (True, 0, 24), (False, 2, 24)]
)
def test_uploads_go_with_the_videos_of_a_public_page_and_after_a_day(unopened, shared, hours, kept):
    from ui.runs.retention import Limits

    unopened._manager.limits = Limits(hours, 8)
    unopened.launch(share=shared)
    assert unopened.delete_cache == (3600, kept * 3600)


def test_settings_may_be_given_by_position(unopened):
    from ui import page

    assert unopened.launch(False, True)["inbrowser"] is True
    with pytest.raises(TypeError, match="positional arguments"):
        unopened.launch(*range(len(page._POSITIONAL) + 1))
    for settings in ({"auth": ("user", "word")}, {"auth_dependency": lambda request: None}):
        with pytest.raises(ValueError, match="MCP server asks for no login"):
            unopened.launch(mcp_server=True, **settings)
    with pytest.raises(ValueError, match="MCP server asks for no login"):
        unopened.launch(None, False, None, False, 40, ("user", "word"), mcp_server=True)


def test_web_application_settings_of_ones_own_are_kept_beside_the_pages(unopened):
    def handler(request, error):
        return None

    told = unopened.launch(app_kwargs={"docs_url": "/docs", "exception_handlers": {OSError: handler}})
    told = told["app_kwargs"]
    assert told["docs_url"] == "/docs"
    assert told["exception_handlers"][OSError] is handler
    assert ValueError in told["exception_handlers"]
    assert told["lifespan"] is not None


def test_a_shared_page_is_served_at_its_public_address_to_strangers(monkeypatch, tmp_path):
    """From the first request on."""
    import httpx
    from gradio import networking

    from tests.ui.fake_worker import FakeWorker
    from ui.page import build

    page = build(FakeWorker(), tmp_path / "outputs")
    seen = {}

    def tunnel(**settings):
        public = {"host": "1a2b3c.gradio.live"}
        seen["before"] = (page._manager.shared, httpx.get(page.local_url, headers=public).status_code)
        return "https://1a2b3c.gradio.live"

    monkeypatch.setattr(networking, "setup_tunnel", tunnel)
    monkeypatch.setenv("GRADIO_SHARE", "True")
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True)
    try:
        assert seen["before"] == (True, 403)
        with httpx.Client(base_url=address, headers={"host": "1a2b3c.gradio.live"}) as client:
            config = client.get("config")
            assert config.status_code == 200
            for origin, code in (("https://1a2b3c.gradio.live", 200), ("https://evil.example", 403)):
                asked = client.post("gradio_api/call/backends", json={"data": []}, headers={"origin": origin})
                assert asked.status_code == code
                allowed = asked.headers.get("access-control-allow-origin")
                assert allowed == (origin if code == 200 else None)
            assert client.get("monitoring/summary").status_code == 403
    finally:
        page.close(verbose=False)


def test_an_mcp_server_needs_a_package_that_is_named(monkeypatch):
    monkeypatch.setattr(app, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["app.py", "--mcp"])
    with pytest.raises(SystemExit, match=r"pip install \"gradio\[mcp\]\""):
        app.main()


def test_the_readme_is_a_space_that_can_be_built():
    from huggingface_hub import metadata_load
    from packaging.requirements import Requirement

    space = metadata_load(ROOT / "README.md")
    wanted = [Requirement(line) for line in (ROOT / "requirements.txt").read_text().splitlines() if line]
    gradio = next(each for each in wanted if each.name == "gradio")
    assert space["sdk"] == "gradio"
    assert gradio.specifier.contains(space["sdk_version"])
    assert (ROOT / space["app_file"]).is_file()
    assert space["python_version"] in ("3.10", "3.12")  # what ZeroGPU has
    assert len(space["short_description"]) <= 60


def test_it_starts_as_a_space_does(tmp_path):
    """As `python app.py`, listening where the environment says, in a folder that cannot be written to."""
    from gradio_client import Client

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        "SPACE_ID": "owner/studio", "SYSTEM": "spaces", "GRADIO_SERVER_NAME": "0.0.0.0",
        "GRADIO_SERVER_PORT": str(port), "TMPDIR": str(tmp_path), "GRADIO_TEMP_DIR": str(tmp_path / "gradio"),
    }  # fmt: skip
    folder = tmp_path / "program"
    folder.mkdir()
    folder.chmod(0o500)
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "app.py")],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert process.stdout is not None
        said = ""
        while "Running on" not in said:
            line = process.stdout.readline()
            assert line, said
            said += line
        client = Client(f"http://127.0.0.1:{port}/", verbose=False)
        assert client.predict(api_name="/backends")[0]["id"] == "pocket"
    finally:
        process.terminate()
        process.wait(20)
    assert not list(folder.iterdir())
    assert not re.search("Traceback|Error", said)


def started(command: list[str], folder: Path, **environment: str) -> tuple[subprocess.Popen[str], str]:
    """A program in `folder` once it says where it runs, and what it said until then."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    said = ""
    while "create a public link" not in said:
        line = process.stdout.readline()
        assert line, said
        said += line
    return process, said


def free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


def test_a_plain_file_generates_where_nothing_is_as_it_should_be(tmp_path):
    """Proxies that lead nowhere, folders that cannot be made, IPv6; and no `if __name__ == "__main__"`."""
    from gradio_client import Client

    try:
        port = free_port("::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    nowhere = "/dev/null/nowhere"
    (tmp_path / "page.py").write_text(
        f"print('run')\nfrom app import demo\ndemo.launch(None, False, server_port={port})\n"
    )
    process, said = started(
        ["page.py"],
        tmp_path,
        http_proxy=PROXY, HTTPS_PROXY=PROXY, all_proxy="socks5://127.0.0.1:9", NO_PROXY="[::1],example.com",
        GRADIO_TEMP_DIR=nowhere, HF_HOME=nowhere, HOME=nowhere, XDG_CACHE_HOME=nowhere,
        GRADIO_SERVER_NAME="0:0:0:0:0:0:0:1", GRADIO_ROOT_PATH="proxy/7860/",
    )  # fmt: skip
    try:
        assert f"http://[::1]:{port}" in said
        client = Client(f"http://[::1]:{port}/", verbose=False)
        (_, made) = client.predict(
            model="pocket", prompt="a red box", codec="BF16", blocks=1, api_name="/generate"
        )
        assert made
    finally:
        process.terminate()
        assert process.stdout is not None
        said += process.stdout.read()
        process.wait(20)
    assert said.count("run\n") == 1
    assert nowhere in said
    assert "Traceback" not in said


@pytest.mark.parametrize("root", ["proxy/7860", "/proxy/7860/", "https://a.example/x/"])
def test_the_page_knows_where_it_is_seen(tmp_path, root):
    import httpx

    from tests.ui.fake_worker import FakeWorker
    from ui.page import build

    page = build(FakeWorker(), tmp_path / "outputs")
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, root_path=root)
    try:
        host = "a.example" if "://" in root else "hub.example"
        own = {"host": host, "x-forwarded-proto": "https"}
        config = httpx.get(f"{address}config", headers=own)
        wanted = root.rstrip("/") if "://" in root else f"https://{host}/proxy/7860"
        assert config.json()["root"] == wanted
        assert f"{wanted}/" in httpx.get(address, headers=own).text
        asked = httpx.post(
            f"{address}gradio_api/call/backends",
            json={"data": []},
            headers={**own, "origin": f"https://{host}"},
        )
        assert asked.status_code == 200
    finally:
        page.close(verbose=False)
