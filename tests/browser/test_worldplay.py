"""From a picture and a path to the file: the real program, HY-WorldPlay tiny and with random weights."""

import numpy as np
import pytest
from PIL import Image

from tests.browser.conftest import free_port, serve
from ui.runs import mp4


@pytest.fixture(scope="module")
def program(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("program")
    port = free_port()
    command = ["-m", "tests.browser.tiny_worldplay", str(port), str(folder / "outputs")]
    yield from serve(command, port, folder / "log.txt")


@pytest.mark.slow
def test_a_picture_is_walked_into(open_page, program, tmp_path):
    page = open_page(program)
    page.click("#model input")
    page.click("#model [role=option] >> text=HY-WorldPlay")
    page.wait_for_function("document.querySelector('.about').textContent.includes('South Korea')")
    page.wait_for_function("/ends at/.test(document.querySelector('#memory-note').textContent)")
    pixels = np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    page.set_input_files("#picture input[type=file]", tmp_path / "picture.png")
    page.wait_for_selector("#picture-note img")
    # Typed, then added to with the pad.
    page.fill("#path textarea", "w-4")
    page.click("#pad-right")
    page.wait_for_function("document.querySelector('#path textarea').value === 'w-4, right-4'")
    page.wait_for_function("document.querySelector('#path-note').textContent.includes('8 latent')")
    # Another way to remember sets the window, too.
    page.click("text=Advanced")
    assert page.input_value("#window input") == "4"
    page.click("#mode input")
    page.click("#mode [role=option] >> text=Encode once and keep")
    page.wait_for_function("document.querySelector('#window input').value === '0'")
    assert "not how the model was trained" in page.inner_text("#mode")
    field = page.locator("#blocks input[type=number]")
    field.fill("2")
    field.blur()
    page.click("#generate")
    page.wait_for_selector(".status[data-kind=done], .status[data-kind=error]", timeout=120_000)
    assert page.inner_text(".status .line").startswith("Done: 29 frames")
    said = page.inner_text("#status")
    assert "Memory: Encode once and keep." in said
    assert "is the first frame" in said
    page.wait_for_selector(".screen[data-state=final] video")
    with page.expect_download() as download:
        page.click("a.download")
    download.value.save_as(tmp_path / "video.mp4")
    frames = np.stack(list(mp4.decode(tmp_path / "video.mp4")))
    assert frames.shape == (29, 128, 224, 3)
    assert frames.std() > 10, "the world is empty"
    made = mp4.read_settings(tmp_path / "video.mp4")
    assert (made["model"], made["mode"], made["path"]) == ("worldplay", "incremental", "w-4, right-4")
