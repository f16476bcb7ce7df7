"""What the environment may hold, and that Gradio's HTTP client can live with what is left of it."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import httpx
import pytest

from ui.server import environment
from ui.server.environment import CannotStart

PROXY = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No proxies, and back to how it was afterwards."""
    proxies = [f"{scheme}_proxy" for scheme in ("http", "https", "all", "no")]
    for name in (
        *proxies,
        *map(str.upper, proxies),
        "GRADIO_SERVER_NAME",
        "GRADIO_ROOT_PATH",
        "SSL_CERT_FILE",
        "SSL_CERT_DIR",
    ):
        # Set first, so that it is taken away again whatever a test sets.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "gradio"))


def proxied(url: str) -> bool:
    """Whether a client made from the environment would ask a proxy for `url`."""
    with httpx.Client(verify=False) as client:
        return client._transport_for_url(httpx.URL(url)) is not client._transport


LOCAL = ("http://127.0.0.1:7860/", "http://localhost:7860/", "http://[::1]:7860/gradio_api/startup-events")


@pytest.mark.parametrize(
    "given",
    [
        {"http_proxy": PROXY, "https_proxy": PROXY},
        {"HTTP_PROXY": PROXY, "HTTPS_PROXY": PROXY},
        {"ALL_PROXY": PROXY},
        {"all_proxy": "127.0.0.1:9"},
        {"https_proxy": PROXY, "http_proxy": f" {PROXY} ", "no_proxy": "example.com, .internal"},
        {"HTTPS_PROXY": PROXY, "HTTP_PROXY": PROXY, "NO_PROXY": "127.0.0.1"},
        {"HTTPS_PROXY": PROXY, "http_proxy": PROXY, "NO_PROXY": "example.com", "no_proxy": "localhost"},
    ],
    ids=str,
)
def test_loopback_is_asked_without_a_proxy_and_the_world_through_it(monkeypatch, given):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert environment.prepare() == []
    assert [url for url in LOCAL if proxied(url)] == []
    assert proxied("https://huggingface.co/")
    if "example.com" in given.get("no_proxy", ""):
        assert not proxied("https://example.com/")
    before = dict(os.environ)
    assert environment.prepare() == []
    assert dict(os.environ) == before, "once is enough"


@pytest.mark.parametrize("name", ["all_proxy", "ALL_PROXY", "https_proxy", "HTTP_PROXY"])
@pytest.mark.parametrize("url", ["socks5://user:secret@127.0.0.1:9", "socks5h://127.0.0.1:9"])
def test_without_its_package_socks_is_left_out_and_said(monkeypatch, name, url):
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv(name, url)
    monkeypatch.setenv("no_proxy", "example.com")
    (said,) = environment.prepare()
    assert name.lower() in said and "pip install socksio" in said
    assert "secret" not in said
    assert not any(map(proxied, (*LOCAL, "https://huggingface.co/")))


def test_beside_socks_an_http_proxy_is_used(monkeypatch):
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", PROXY)
    assert len(environment.prepare()) == 1
    assert proxied("https://huggingface.co/")


@pytest.mark.parametrize(
    "url", ["ftp://127.0.0.1:9", "http://[::1", "http://proxy:port", "socks9://a", "://"]
)
def test_what_is_no_proxy_is_left_out_and_said(monkeypatch, url):
    monkeypatch.setenv("HTTP_PROXY", url)
    (said,) = environment.prepare()
    assert "http_proxy is not used" in said
    assert not any(map(proxied, (*LOCAL, "http://huggingface.co/")))


@pytest.mark.parametrize("name", ["no_proxy", "NO_PROXY"])
def test_no_proxy_keeps_what_can_be_read(monkeypatch, name):
    monkeypatch.setenv("https_proxy", PROXY)
    monkeypatch.setenv(name, "[::1],example.com,,10.0.0.0/8,::1/128")
    said = environment.prepare()
    assert all("in no_proxy is ignored" in each for each in said)
    assert not proxied("https://example.com/")
    assert not any(map(proxied, LOCAL))
    assert proxied("https://huggingface.co/")


def test_no_proxy_at_all_is_left_alone(monkeypatch):
    monkeypatch.setenv("https_proxy", PROXY)
    monkeypatch.setenv("no_proxy", "*")
    assert environment.prepare() == []
    assert not proxied("https://huggingface.co/")


def test_the_systems_proxy_settings_are_kept(monkeypatch):
    """Of Windows and macOS, which are read where no variable is set."""
    monkeypatch.setattr(environment, "getproxies", lambda: {"https": PROXY})
    assert environment.prepare() == []
    assert os.environ["https_proxy"] == PROXY
    assert not any(map(proxied, LOCAL))


@pytest.mark.parametrize(
    ("host", "listens", "url"),
    [
        ("::1", "[::1]", "http://[::1]:7860/"),
        ("[::1]", "[::1]", "http://[::1]:7860/"),
        ("0:0:0:0:0:0:0:1", "[::1]", "http://[::1]:7860/"),
        ("::", "[::]", "http://[::]:7860/"),
        ("fd00::7", "[fd00::7]", "http://[fd00::7]:7860/"),
        ("192.168.1.5", "192.168.1.5", "http://192.168.1.5:7860/"),
        ("studio.lan", "studio.lan", "http://studio.lan:7860/"),
        (None, "127.0.0.1", "http://127.0.0.1:7860/"),
        ("", "127.0.0.1", "http://127.0.0.1:7860/"),
    ],
)
def test_where_it_listens_is_written_as_gradio_wants_it(monkeypatch, host, listens, url):
    monkeypatch.setenv("http_proxy", PROXY)
    environment.prepare()
    assert environment.server_name(host) == listens
    assert not proxied(url), "Gradio asks itself whether it has started"
    assert proxied("http://10.9.8.7/")


@pytest.mark.parametrize("name", ["::1", "[::1]", "::", "no.such.host.invalid"])
def test_gradio_reads_an_address_it_can_try(monkeypatch, name):
    monkeypatch.setenv("GRADIO_SERVER_NAME", name)
    assert environment.server_name(None) == (f"[{environment.bare(name)}]" if ":" in name else name)
    assert os.environ["GRADIO_SERVER_NAME"] == "127.0.0.1"


@pytest.mark.parametrize(
    ("path", "wanted"),
    [
        ("proxy/7860", "/proxy/7860"),
        ("/proxy/7860", "/proxy/7860"),
        ("/proxy/7860/", "/proxy/7860"),
        ("//proxy/7860//", "/proxy/7860"),
        ("", ""),
        ("/", ""),
        (" /a/ ", "/a"),
        ("https://host.example/x/", "https://host.example/x"),
        ("HTTPS://host.example", "https://host.example"),
        ("http://host.example:8000/", "http://host.example:8000"),
    ],
)
def test_root_paths_are_of_one_form(monkeypatch, path, wanted):
    assert environment.root_path(path) == wanted
    monkeypatch.setenv("GRADIO_ROOT_PATH", path)
    assert environment.root_path(None) == wanted
    assert environment.root_path("/other") == "/other"


@pytest.mark.parametrize("path", ["ftp://host/x", "https://", "javascript://x", "https:///x/"])
def test_what_is_no_root_path_is_a_sentence(path):
    with pytest.raises(CannotStart, match="is no root path"):
        environment.root_path(path)


@pytest.mark.parametrize("where", ["a file", "below a file", "a device"])
def test_uploads_go_where_there_is_room(monkeypatch, tmp_path, where):
    file = tmp_path / "file"
    file.touch()
    folder = {"a file": file, "below a file": file / "gradio", "a device": Path("/dev/null/gradio")}[where]
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    (said,) = environment.prepare()
    other = Path(os.environ["GRADIO_TEMP_DIR"])
    assert str(folder) in said and str(other) in said
    (other / "upload").touch()
    assert environment.prepare() == []


def test_the_usual_folder_may_be_another_users(monkeypatch, tmp_path):
    monkeypatch.delenv("GRADIO_TEMP_DIR")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "gradio").touch()  # in place of a folder that cannot be written to, which the superuser can
    assert len(environment.prepare()) == 1
    assert Path(os.environ["GRADIO_TEMP_DIR"]).parent == tmp_path


def test_without_any_folder_it_is_a_sentence(monkeypatch):
    def nowhere() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.delenv("GRADIO_TEMP_DIR")
    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    with pytest.raises(CannotStart, match="set TMPDIR"):
        environment.prepare()


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_certificates_that_cannot_be_read_are_a_sentence(monkeypatch, tmp_path, content):
    file = tmp_path / "certificates.pem"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(CannotStart, match=r"SSL_CERT_FILE is .* cannot be read"):
        environment.prepare()


@pytest.mark.parametrize(
    "name", ["GRADIO_SERVER_PORT", "GRADIO_NUM_PORTS", "GRADIO_NUM_WORKERS", "GRADIO_DEBUG"]
)
def test_what_gradio_reads_as_a_number_is_one(monkeypatch, name):
    monkeypatch.setenv(name, "x")
    with pytest.raises(CannotStart, match=f"{name} is 'x'"):
        environment.prepare()
    monkeypatch.setenv(name, "")
    assert environment.prepare() == []
    assert name not in os.environ
