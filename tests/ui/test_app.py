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
    from ui.build import build

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
        (["--host", "no.such.host.invalid"], "There is no address"),
        (["--auth", "user"], "write user:password"),
        (["--auth", "user:"], "write user:password"),
        (["--device", "tpu"], "invalid choice"),
    ],
)
def test_wrong_arguments_are_explained(arguments, words):
    ran = python("app.py", *arguments)
    assert ran.returncode != 0
    assert words in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_port_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("GRADIO_SERVER_PORT", "8123")
    assert app._parser().parse_args([]).port == 8123


def test_a_login_may_hold_colons():
    assert app._parser().parse_args(["--auth", "user:pass:word"]).auth == ("user", "pass:word")


def test_a_space_keeps_its_videos_out_of_its_own_folder(monkeypatch):
    monkeypatch.setenv("SPACE_ID", "someone/space")
    assert app._default_outputs().is_absolute()


def test_a_shared_page_is_one_of_strangers(monkeypatch, tmp_path):
    import gradio as gr

    from tests.ui.fake_worker import FakeWorker
    from ui.build import build

    monkeypatch.setattr(gr.Blocks, "launch", lambda self, *args, **kwargs: None)
    monkeypatch.delenv("SPACE_ID", raising=False)
    page = build(FakeWorker(), tmp_path)
    page.launch()
    assert page._desk.shared is False
    page.launch(share=True)
    assert page._desk.shared is True
    monkeypatch.setenv("SPACE_ID", "someone/space")
    page.launch()
    assert page._desk.shared is True


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
