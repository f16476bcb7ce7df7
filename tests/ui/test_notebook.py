"""The notebook, run as someone runs it, and where it says the page is."""

import re
import socket
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from ui.notebook import find, start

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "assets" / "qvg_studio.ipynb"
HUB = {"JUPYTERHUB_SERVICE_PREFIX": "/user/me/"}


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def read():
    nbformat = pytest.importorskip("nbformat")
    found = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(found)
    return found


def test_the_notebook_is_kept_without_outputs():
    for cell in read().cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None
        assert str(ROOT) not in cell.source


def test_the_notebook_runs(monkeypatch, tmp_path, port):
    """From its own folder, on a hub, without a network but this machine's."""
    nbclient = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for name, value in {
        "GRADIO_SERVER_PORT": str(port), "QVG_NOTEBOOK_OUTPUTS": str(tmp_path / "outputs"),
        "QVG_NOTEBOOK_BLOCKS": "7", "OMP_NUM_THREADS": "1", "JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"),
        "JUPYTER_DATA_DIR": str(tmp_path / "data"), "IPYTHONDIR": str(tmp_path / "ipython"),
        "GRADIO_TEMP_DIR": str(tmp_path / "gradio"), "HTTP_PROXY": "http://127.0.0.1:9",
        "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1", **HUB,
        "HF_HUB_OFFLINE": "1", "PYTHONDONTWRITEBYTECODE": "1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    notebook = read()
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(NOTEBOOK.parent)}}
    )
    client.execute()
    shown = {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    assert f'<iframe src="/user/me/proxy/{port}/"' in html(shown["page"])
    assert shown["download"] == []
    table, video = shown["result"]
    rows = [line.split(" | ") for line in table.data["text/markdown"].splitlines()]
    assert [row[0].strip("| ") for row in rows[2:]] == ["BF16", "QVG INT2"]
    bf16, coded = (float(row[1].split()[0]) for row in rows[2:])
    assert coded < bf16
    assert re.search(r'<video controls loop muted[^>]*>\s*<source src="data:video/mp4;base64,', html([video]))
    assert list((tmp_path / "outputs").rglob("*.mp4"))
    with pytest.raises(OSError):  # noqa: PT011
        socket.create_connection(("127.0.0.1", port), timeout=5).close()


def html(outputs):
    return "".join(output.data.get("text/html", "") for output in outputs)


@pytest.mark.parametrize("folder", [ROOT, ROOT / "assets"])
def test_it_finds_the_program(monkeypatch, folder):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    found = {}
    exec(next(cell.source for cell in read().cells if cell.id == "settings"), found)
    assert found["root"] == ROOT
    assert found["MODEL"] is None


@pytest.mark.parametrize(
    ("environment", "proxied", "base", "address", "root_path", "words"),
    [
        ({}, False, None, "http://127.0.0.1:7860/", "", "on this machine"),
        ({}, True, None, "http://127.0.0.1:7860/", "", "on this machine"),
        ({}, True, "/", "/proxy/7860/", "/proxy/7860", "behind Jupyter's own address"),
        ({}, True, "/lab/a/", "/lab/a/proxy/7860/", "/lab/a/proxy/7860", "behind Jupyter's own address"),
        ({}, False, "/", "http://127.0.0.1:7860/", "", "pip install jupyter-server-proxy"),
        (HUB, True, None, "/user/me/proxy/7860/", "/user/me/proxy/7860", "behind Jupyter's own address"),
        (HUB, False, None, "/user/me/proxy/7860/", "/user/me/proxy/7860", "If it stays empty: pip install"),
    ],
)
def test_where_the_page_is(environment, proxied, base, address, root_path, words, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", "/nowhere")
    place = find(7860, environment, proxied, base)
    assert (place.address, place.root_path) == (address, root_path)
    assert words in place.said


def test_the_server_that_started_the_kernel_is_found(monkeypatch, tmp_path):
    pytest.importorskip("jupyter_core")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    (tmp_path / "jpserver-7.json").write_text('{"base_url": "/pod/", "port": 8888}')
    assert find(1, {"JPY_PARENT_PID": "7"}, True).root_path == "/pod/proxy/1"
    assert find(1, {"JPY_PARENT_PID": "8"}, True).root_path == ""
    (tmp_path / "jpserver-8.json").write_text("{")
    assert find(1, {"JPY_PARENT_PID": "8"}, True).root_path == ""


@pytest.mark.parametrize("answering", [True, False])
def test_a_page_that_cannot_start_says_why(tmp_path, answering):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        if answering:
            handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *arguments: None})
            taken.close()
            server = ThreadingHTTPServer(("127.0.0.1", port), handler)
            threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(RuntimeError, match=f"Port {port} is taken"):
            start(port, tmp_path)
        if answering:
            server.shutdown()
            server.server_close()
