"""Which files of a run a stranger with the address of its video can fetch, over HTTP."""

from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.ui.fake_worker import FakeWorker
from ui.page import build
from ui.server.served_files import is_served

KEPT_BACK = [
    "run/run.json", "run/.run.json", "run/picture.png", "run/clip.video", ".lock", "run/.a.mp4", "a.json",
    ".export/a.json", "run/export/.a.json",
]  # fmt: skip
SERVED = [
    "run/a.mp4",
    "run/segment-1-a-00000.mp4",
    "run/thumbnail.jpg",
    "run/export/a.json",
    "run/export/a.gif",
]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    outputs = tmp_path_factory.mktemp("served") / "outputs"
    for name in KEPT_BACK + SERVED:
        (outputs / name).parent.mkdir(parents=True, exist_ok=True)
        (outputs / name).write_text("what is inside")
    page = build(FakeWorker(), outputs)
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, server_port=None)
    with httpx.Client(base_url=address, timeout=20) as client:
        yield client, outputs
    page.close()


@pytest.mark.parametrize("name", SERVED)
def test_what_the_page_shows_is_served(site, name):
    client, outputs = site
    assert client.get(f"gradio_api/file={quote(str(outputs / name))}?v=1").text == "what is inside"
    assert client.head(f"gradio_api/file={outputs / name}").status_code == 200


@pytest.mark.parametrize("name", KEPT_BACK)
def test_what_lies_beside_it_is_not(site, name):
    client, outputs = site
    whole = str(outputs / name)
    for asked in (
        whole, whole.replace("/run/", "/run/export/../"), whole.replace("/run/", "//run/./"),
        f"{outputs}/run/export/../../{name}", quote(whole, safe=""), whole.replace("run", "%72un"),
        f"/nowhere/..{whole}",
    ):  # fmt: skip
        for route in ("gradio_api/file=", "gradio_api/file/", "file=", "gradio_api/file/="):
            for method in ("GET", "HEAD"):
                answer = client.request(method, f"{client.base_url}{route}{asked}")
                assert answer.status_code >= 400, (method, route, asked)
                assert "inside" not in answer.text


def test_only_the_outputs_are_looked_at(site):
    client, _ = site
    assert client.get("config").status_code == 200
    assert client.get("gradio_api/file=/etc/passwd").status_code == 403
    assert not is_served(Path("run/run.json"))
