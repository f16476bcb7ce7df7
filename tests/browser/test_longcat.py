"""LongCat-Video from a picture to the file: page, worker process, transformer, history and decoder.

At a size a CPU can run, with random weights: what it shows is noise, how it gets there is not.
"""

import numpy as np
import pytest
from PIL import Image

from backends.longcat.spec import TINY
from backends.memory_plan import codec_for, plan
from tests.browser.conftest import free_port, serve
from ui.format import size
from ui.runs import mp4


@pytest.fixture(scope="module")
def program(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("longcat")
    port = free_port()
    command = ["-m", "tests.browser.tiny_longcat", str(port), str(folder / "outputs")]
    yield from serve(command, port, folder / "log.txt")


@pytest.mark.slow
def test_a_picture_becomes_a_clip_and_is_continued(open_page, program, tmp_path):
    Image.fromarray(np.full((90, 150, 3), 128, np.uint8)).save(tmp_path / "picture.png")
    page = open_page(program)
    page.wait_for_function("/GiB/.test(document.querySelector('#device').textContent)", timeout=60_000)
    page.click("#model input")
    page.click("#model [role=option] >> text=LongCat-Video")
    page.wait_for_function("document.querySelector('#memory-note').textContent.includes('fits')")
    page.wait_for_selector("#path", state="hidden")  # no camera
    page.click("#examples .chip >> nth=0")
    page.set_input_files("#picture input[type=file]", str(tmp_path / "picture.png"))
    page.wait_for_selector("#picture-note img")
    field = page.locator("#blocks input[type=number]")
    field.fill("2")
    field.blur()
    page.click("#generate")
    page.wait_for_selector(".status[data-kind=done], .status[data-kind=error]", timeout=120_000)
    assert page.inner_text(".status .line").startswith("Done: 17 frames")
    assert "Made at 96 x 64, the size nearest" in page.inner_text("#status")
    # The history of the last continuation: three latents, in one span whatever the policy says.
    codec = codec_for(TINY, "QVG INT2")
    assert page.inner_text(".gauge .held") == size(plan(TINY, codec, TINY.policy, 2, None).kv_bytes)
    page.wait_for_selector(".screen[data-state=final] video")
    with page.expect_download() as download:
        page.click("a.download")
    download.value.save_as(tmp_path / "video.mp4")
    frames = np.stack(list(mp4.decode(tmp_path / "video.mp4")))
    assert frames.shape == (17, 64, 96, 3)
    assert frames.std() > 5, "the video is empty"
    settings = mp4.read_settings(tmp_path / "video.mp4")
    assert settings["model"] == "longcat"
    assert settings["made"]["frames"] == 17
