"""Self-Forcing from the click to the file: page, worker process, transformer, cache and streaming decoder.

At a size a CPU can run, with random weights: what it shows is noise, how it gets there is not.
"""

import numpy as np
import pytest

from backends.memory_plan import codec_for
from backends.self_forcing.spec import TINY
from qvg.policy import cache_bytes
from tests.browser.conftest import free_port, serve
from ui.format import size
from ui.runs import mp4


@pytest.fixture(scope="module")
def program(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("self_forcing")
    port = free_port()
    command = ["-m", "tests.browser.tiny_self_forcing", str(port), str(folder / "outputs")]
    yield from serve(command, port, folder / "log.txt")


@pytest.mark.slow
def test_a_prompt_becomes_a_video_block_by_block(open_page, program, tmp_path):
    page = open_page(program)
    page.wait_for_function("/GiB/.test(document.querySelector('#device').textContent)", timeout=60_000)
    page.click("#model input")
    page.click("#model [role=option] >> text=Self-Forcing")
    page.wait_for_function("document.querySelector('#memory-note').textContent.includes('fits')")
    page.wait_for_selector("#path", state="hidden")  # no camera
    page.click("#examples .chip >> nth=0")
    field = page.locator("#blocks input[type=number]")
    field.fill("4")
    field.blur()
    page.click("#generate")
    page.wait_for_selector(".status[data-kind=done], .status[data-kind=error]", timeout=120_000)
    assert page.inner_text(".status .line").startswith("Done: 45 frames")
    # Two blocks encoded together, one in full precision; the last one is not remembered.
    codec = codec_for(TINY, "QVG INT2")
    stored, _ = cache_bytes(TINY.geometry, codec, TINY.policy, 3, TINY.latents_per_block)
    assert page.inner_text(".gauge .held") == size(stored)
    page.wait_for_selector(".screen[data-state=final] video")
    with page.expect_download() as download:
        page.click("a.download")
    download.value.save_as(tmp_path / "video.mp4")
    frames = np.stack(list(mp4.decode(tmp_path / "video.mp4")))
    assert frames.shape == (45, 64, 96, 3)
    assert frames.std() > 5, "the video is empty"
    settings = mp4.read_settings(tmp_path / "video.mp4")
    assert settings["model"] == "self_forcing"
    assert settings["made"]["frames"] == 45
