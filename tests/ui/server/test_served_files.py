"""Which files of a run a stranger with the address of its video can fetch, over HTTP."""

import os
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest

from tests.ui.fake_worker import FakeWorker
from ui.page import build
from ui.server.served_files import is_served

KEPT_BACK = [
    "run/run.json", "run/.run.json", "run/picture.png", "run/clip.video", ".lock", "run/.a.mp4", "a.json",
    ".export/a.json", "run/export/.a.json", "export/run.json", "run/export/deeper/export/a.json",
    "run/deeper/picture.png", "run/deeper/thumbnail.jpg",
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
    ranged = client.get(f"gradio_api/file={quote(whole)}", headers={"Range": "bytes=0-3"})
    assert ranged.status_code >= 400
    assert "what" not in ranged.text


@pytest.fixture(scope="module")
def links(site, tmp_path_factory):
    """Ways into the outputs folder that are not its name: links of others, and the system's own."""
    _, outputs = site
    aside = tmp_path_factory.mktemp("links")
    (aside / "whole").symlink_to(outputs)
    (aside / "run").symlink_to(outputs / "run")
    (aside / "twice").symlink_to(aside / "whole")
    (aside / "innocent.mp4").symlink_to(outputs / "run" / "run.json")
    # A lock of a run is a descriptor of its folder.
    held = os.open(outputs / "run", os.O_RDONLY)
    yield {
        "whole": f"{aside}/whole/run",
        "run": f"{aside}/run",
        "twice": f"{aside}/twice/run",
        "root": f"/proc/self/root{outputs}/run",
        "descriptor": f"/proc/self/fd/{held}",
        "file": f"{aside}/innocent.mp4",
    }
    os.close(held)


@pytest.mark.parametrize("way", ["whole", "run", "twice", "root", "descriptor"])
def test_no_link_leads_around(site, links, way):
    client, _ = site
    if not os.path.exists(links[way]):
        pytest.skip("this system has no such link")
    for name in ("run.json", "picture.png", "export/../run.json"):
        for method, headers in (("GET", {}), ("HEAD", {}), ("GET", {"Range": "bytes=0-3"})):
            answer = client.request(
                method, f"{client.base_url}gradio_api/file={links[way]}/{name}", headers=headers
            )
            assert answer.status_code == 403, (method, name)
    assert client.get(f"gradio_api/file={links[way]}/a.mp4").text == "what is inside"


def test_what_a_link_is_called_does_not_matter(site, links):
    client, outputs = site
    assert client.get(f"gradio_api/file={links['file']}").status_code == 403
    (outputs / "run" / "inside.mp4").symlink_to(outputs / "run" / "run.json")
    assert client.get(f"gradio_api/file={outputs}/run/inside.mp4").status_code == 403


def test_outputs_that_are_a_link_themselves(tmp_path):
    (tmp_path / "disk" / "run").mkdir(parents=True)
    (tmp_path / "outputs").symlink_to(tmp_path / "disk")
    for name in ("a.mp4", "run.json"):
        (tmp_path / "disk" / "run" / name).write_text("what is inside")
    page = build(FakeWorker(), tmp_path / "outputs")
    _, address, _ = page.launch(prevent_thread_lock=True, quiet=True, server_port=None)
    with httpx.Client(base_url=address, timeout=20) as client:
        for folder in ("outputs", "disk"):
            assert client.get(f"gradio_api/file={tmp_path}/{folder}/run/a.mp4").status_code == 200
            assert client.get(f"gradio_api/file={tmp_path}/{folder}/run/run.json").status_code == 403
    page.close()


def test_only_the_outputs_are_looked_at(site):
    client, _ = site
    assert client.get("config").status_code == 200
    assert client.get("gradio_api/file=/etc/passwd").status_code == 403
    assert not is_served(Path("run/run.json"))
    assert client.get("gradio_api/file=%00/run/run.json").status_code == 403
