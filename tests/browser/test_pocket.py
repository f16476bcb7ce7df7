"""From the click to the file with the real program: page, worker process, cache and Pocket World."""

import re

import numpy as np
import pytest

from backends import registry
from tests.browser.conftest import free_port, serve
from ui.runs import mp4

POCKET = next(entry for entry in registry.entries() if entry.spec.id == "pocket")

pytestmark = pytest.mark.skipif(POCKET.missing is not None, reason=f"Pocket World: {POCKET.missing}")


@pytest.fixture(scope="module")
def program(browser, tmp_path_factory):
    folder = tmp_path_factory.mktemp("program")
    port = free_port()
    command = ["app.py", "--port", str(port), "--outputs", str(folder / "outputs"), "--device", "cpu"]
    yield from serve(command, port, folder / "log.txt")


def finished(page, words="Done", timeout=180_000):
    page.wait_for_selector(".status[data-kind=done], .status[data-kind=error]", timeout=timeout)
    assert page.inner_text(".status .line").startswith(words)


@pytest.mark.slow
def test_a_world_is_walked_gone_on_with_and_steered(open_page, program, tmp_path, picture):
    page = open_page(program)
    page.wait_for_function("/GiB/.test(document.querySelector('#device').textContent)", timeout=60_000)
    page.wait_for_function("document.querySelector('#memory-note').textContent.includes('fits')")
    page.click("#examples .chip >> nth=0")
    page.fill("#path :is(textarea, input)", "w-24")
    field = page.locator("#blocks input[type=number]")
    field.fill("2")
    field.blur()
    page.click("#generate")
    finished(page, "Done: 8 frames")
    assert "Understood: red box (left), 2 x blue pillar (far), snow, dusk." in page.inner_text("#status")
    assert page.inner_text(".gauge .held") == "1.7 MiB"
    page.wait_for_selector(".screen[data-state=final] video")

    # The process still has the video's cache: it begins where it was.
    page.evaluate(
        "new MutationObserver(() => (window.lines ||= new Set()).add("
        "document.querySelector('.status .line').textContent))"
        ".observe(document.querySelector('#status'), {subtree: true, childList: true, characterData: true})"
    )
    page.fill("#more input", "1")
    page.click("#extend")
    page.wait_for_function("document.querySelector('.status .line').textContent.includes('Block 3')")
    finished(page, "Done: 12 frames")
    assert not any("again" in line for line in page.evaluate("[...lines]"))
    page.wait_for_selector(".screen[data-state=final] video")
    with page.expect_download() as download:
        page.click("a.download")
    download.value.save_as(tmp_path / "video.mp4")
    frames = np.stack(list(mp4.decode(tmp_path / "video.mp4")))
    assert frames.shape == (12, 128, 224, 3)
    assert frames.std() > 10, "the world is empty"
    kept = mp4.read_settings(tmp_path / "video.mp4")
    assert kept["made"]["frames"] == 12
    assert kept["walked"] == "w-11"

    page.click("#tries button[data-name='Drive']")
    page.wait_for_selector(".drive", state="visible")
    page.click(".drive .focus")
    page.keyboard.down("ArrowLeft")
    # A key counts from the block after the one that is being made when it arrives.
    page.wait_for_function(
        "/Block [6-9]/.test(document.querySelector('.status .line').textContent)", timeout=60_000
    )
    page.keyboard.up("ArrowLeft")
    page.click("#stop")
    page.wait_for_function("document.querySelector('.status .line').textContent.startsWith('Stopped')")
    assert "of cache freed" in page.inner_text(".status .line")
    page.locator("#history li >> nth=0").get_by_role("button", name="To the form").click()
    page.wait_for_function("/left-[0-9]/.test(document.querySelector('#path :is(textarea, input)').value)")


@pytest.mark.slow
def test_at_the_same_budget_two_bits_remember_what_bf16_forgets(open_page, program, picture):
    """The example of one click, shorter."""
    page = open_page(program)
    page.click("#memory input[value=compare]")
    page.fill("#path :is(textarea, input)", "right-12, left-12")
    field = page.locator("#blocks input[type=number]")
    field.fill("6")
    field.blur()
    page.fill("#budget input", "11")
    page.wait_for_function(
        "document.querySelector('#budget-note').textContent.includes('frames from frame 13')"
    )
    page.click("#generate")
    finished(page)
    page.wait_for_selector(".screen[data-state=final] video")
    picture(page, "revisit", full=True)
    bf16, qvg = (
        float(re.search(r"seen again: ([0-9.]+) dB", note)[1])
        for note in page.locator(".pane figcaption strong").all_inner_texts()
    )
    assert qvg > bf16 + 10, f"BF16 {bf16} dB, QVG {qvg} dB"
    assert qvg > 30
