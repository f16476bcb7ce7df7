"""From the click to the file with the real program: page, worker process, cache and Pocket World."""

import re

import numpy as np
import pytest

from backends import registry
from tests.browser.conftest import free_port, serve
from ui import media

POCKET = next(entry for entry in registry.entries() if entry.spec.id == "pocket")

pytestmark = pytest.mark.skipif(POCKET.missing is not None, reason=f"Pocket World: {POCKET.missing}")


@pytest.fixture(scope="module")
def program(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("program")
    port = free_port()
    command = ["app.py", "--port", str(port), "--outputs", str(folder / "outputs"), "--device", "cpu"]
    yield from serve(command, port, folder / "log.txt")


@pytest.mark.slow
def test_two_blocks_of_a_world(open_page, program, tmp_path):
    page = open_page(program)
    page.wait_for_function("/GiB/.test(document.querySelector('#device').textContent)", timeout=60_000)
    page.wait_for_function("document.querySelector('#memory-note').textContent.includes('fits')")
    page.click("#examples .chip >> nth=0")
    page.click("text=Walk ahead")
    field = page.locator("#blocks input[type=number]")
    field.fill("2")
    field.blur()
    page.click("#generate")
    page.wait_for_selector(".status[data-kind=done], .status[data-kind=error]", timeout=180_000)
    assert page.inner_text(".status .line").startswith("Done: 8 frames")
    assert "Understood: red box, 2 x blue pillar, snow." in page.inner_text("#status")
    assert re.fullmatch(r"10\.5 MiB", page.inner_text(".gauge .held strong"))
    page.wait_for_selector(".screen[data-state=final] video")
    with page.expect_download() as download:
        page.click("a.download")
    download.value.save_as(tmp_path / "video.mp4")
    frames = np.stack(list(media.decode(tmp_path / "video.mp4")))
    assert frames.shape == (8, 128, 224, 3)
    assert frames.std() > 10, "the world is empty"
    made = media.read_settings(tmp_path / "video.mp4")["made"]
    assert made["frames"] == 8


def test_stop_reaches_the_worker(open_page, program):
    page = open_page(program)
    page.click("#generate")
    page.wait_for_function("/step/.test(document.querySelector('.status .line').textContent)", timeout=60_000)
    page.click("#stop")
    page.wait_for_selector(".status[data-kind=done]")
    assert page.inner_text(".status .line").startswith("Stopped")
