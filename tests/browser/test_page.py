"""What a visitor sees and does, in a real browser, with a fake worker behind the page."""

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from backends.pocket.spec import SPEC
from tests.ui.fake_worker import counter
from ui import media, pose
from ui.controls import FIRST_SEED

PROMPT, PATH = "#prompt textarea", "#path :is(textarea, input)"
STATUS, DONE, ERROR = ".status .line", ".status[data-kind=done]", ".status[data-kind=error]"


def set_blocks(page: Any, blocks: int) -> None:
    field = page.locator("#blocks input[type=number]")
    field.fill(str(blocks))
    field.blur()
    page.wait_for_function(
        f"document.querySelector('#length-note').textContent.trim().startsWith('{blocks} block')"
    )


def generate(page: Any, prompt: str, blocks: int | None = None) -> None:
    page.fill(PROMPT, prompt)
    if blocks is not None:
        set_blocks(page, blocks)
    page.click("#generate")


def shown(page: Any, loop: bool) -> list[int]:
    return page.evaluate(
        f"shown.filter(frame => frame.loop === {str(loop).lower()}).map(frame => frame.number)"
    )


def meter(page: Any) -> int:
    return int(page.get_attribute("[role=meter]", "aria-valuenow"))


def test_from_click_to_download(page, tmp_path):
    generate(page, "a red box", blocks=8)
    page.wait_for_function("document.querySelector('#player video')?.buffered.length")
    page.evaluate("window.first = document.querySelector('#player video')")
    buffered, held = [], []
    while not page.query_selector(DONE):
        state = page.evaluate(
            "() => { const v = document.querySelector('#player video');"
            " return [v === first, v.buffered.length ? v.buffered.end(0) : 0]; }"
        )
        if state[0]:
            buffered.append(state[1])
        held.append(meter(page))
        page.wait_for_timeout(120)
    assert buffered == sorted(buffered)
    assert len(set(buffered)) >= 4
    assert len(set(held)) >= 4
    assert "32 frames, 2.7 s of video" in page.inner_text(STATUS)
    assert "Understood: a red box." in page.inner_text("#status .note")

    page.wait_for_selector(".screen[data-state=final] video")
    page.wait_for_function("shown.filter(frame => frame.loop).length > 40")
    live = shown(page, loop=False)
    assert live == sorted(live), "the player went back while blocks arrived"
    assert live[-1] == 31
    assert len(set(live)) >= 24
    looped = shown(page, loop=True)
    assert looped != sorted(looped), "the finished video does not loop"

    with page.expect_download() as download:
        page.click("a.download")
    assert download.value.suggested_filename == f"pocket-world-a-red-box-seed-{FIRST_SEED}.mp4"
    download.value.save_as(tmp_path / "video.mp4")
    assert [counter(frame) for frame in media.decode(tmp_path / "video.mp4")] == list(range(32))
    assert media.read_settings(tmp_path / "video.mp4")["prompt"] == "a red box"


def test_the_gauge_says_what_a_screen_reader_needs(page):
    before = page.get_attribute("[role=meter]", "aria-valuetext")
    page.click("#memory input[value=bf16]")
    page.wait_for_function("document.querySelector('.gauge .ratio strong').textContent === '1.0×'")
    page.click("#memory input[value=quantised]")
    page.wait_for_function(f"document.querySelector('[role=meter]').ariaValueText === {before!r}")
    assert "smaller than BF16" in before
    assert "instead of" in page.inner_text("#memory-note")


def test_stop_keeps_what_there_is(page):
    generate(page, "slow", blocks=40)
    page.wait_for_function("shown.length > 0")
    page.click("#stop")
    page.wait_for_selector(DONE, timeout=5_000)
    assert page.inner_text(STATUS).startswith("Stopped: ")
    page.wait_for_selector("#generate", state="visible")
    page.wait_for_selector("a.download", state="visible")


def test_leaving_stops_the_run(open_page, fake_app):
    leaver = open_page(fake_app)
    generate(leaver, "slow", blocks=100)
    leaver.wait_for_function("shown.length > 0")
    waiting = open_page(fake_app)
    generate(waiting, "instant", blocks=1)
    waiting.wait_for_function("document.querySelector('.status .line').textContent.includes('you are next')")
    leaver.close()
    waiting.wait_for_selector(DONE, timeout=8_000)


def test_a_run_that_fails_can_still_be_watched(page):
    generate(page, "fail", blocks=6)
    page.wait_for_selector(ERROR)
    assert "Out of memory in block 3" in page.inner_text(STATUS)
    page.wait_for_selector("a.download", state="visible")
    page.wait_for_function("shown.some(frame => frame.number === 7)")


def test_a_second_run_replaces_the_first(page):
    generate(page, "instant", blocks=2)
    page.wait_for_selector(".screen[data-state=final] video")
    page.evaluate("shown.length = 0")
    generate(page, "again", blocks=4)
    page.wait_for_selector("a.download", state="hidden")
    page.wait_for_selector(".screen[data-state=final] video")
    live = shown(page, loop=False)
    assert max(live) == 15


def test_without_media_source_the_finished_file_is_shown(open_page, fake_app):
    page = open_page(fake_app, script="delete window.MediaSource; delete window.ManagedMediaSource;")
    generate(page, "instant", blocks=2)
    page.wait_for_selector(".screen[data-state=final] video")
    page.wait_for_function("shown.some(frame => frame.number === 7)")


def test_the_page_opens_with_something_to_generate(page):
    assert page.input_value(PROMPT) == SPEC.examples[0]
    assert page.input_value(PATH) == pose.FIRST
    assert "2 moves, 48 latent frames" in page.inner_text("#path-note")


def test_the_pad_writes_the_path(page):
    page.click("#path-clear")
    for key in ("w", "w", "right", "a", "still"):
        page.click(f"#pad-{key}")
    assert page.input_value(PATH) == "w-8, right-4, a-4, still-4"
    page.get_by_role("button", name="Turn left").click()
    page.click("#path-undo")
    page.click("#path-undo")
    assert page.input_value(PATH) == "w-8, right-4, a-4"
    page.fill("#duration input", "10")
    page.click("#pad-a")
    assert page.input_value(PATH) == "w-8, right-4, a-14"
    page.wait_for_function(
        "document.querySelector('#path-note').textContent.trim().startsWith('3 moves, 26 latent')"
    )
    page.click("#as-path >> text=As long")
    page.wait_for_function(
        "document.querySelector('#length-note').textContent.trim().startsWith('7 blocks, 28 frames')"
    )
    page.click("text=Look around")
    assert page.input_value(PATH) == pose.FIRST
    page.click("#path-clear")
    assert page.input_value(PATH) == ""


def test_a_malformed_path_is_explained_while_it_is_typed(page):
    page.fill(PATH, "w-8, fly-3")
    page.wait_for_selector("#path-note .note.bad")
    assert "move 2 (character 6): 'fly' is not a key" in page.inner_text("#path-note")
    generate(page, "kept")
    page.wait_for_selector(ERROR)
    assert "move 2 (character 6)" in page.inner_text(STATUS)
    assert page.input_value(PROMPT) == "kept"
    assert page.input_value(PATH) == "w-8, fly-3"
    page.fill(PATH, "w-8")
    page.wait_for_selector("#path-note .note.bad", state="detached")


@pytest.mark.parametrize(
    ("content", "words"),
    [(b"", "empty (0 bytes)"), (b"<html>" * 99, "not a picture"), (None, "40 megapixels")],
)
def test_a_bad_picture_is_explained_and_the_form_is_kept(page, tmp_path, content, words):
    file: Path = tmp_path / "picture.png"
    if content is None:
        Image.new("1", (8000, 5000)).save(file)
    else:
        file.write_bytes(content)
    page.fill(PROMPT, "kept")
    page.set_input_files("#picture input[type=file]", file)
    page.wait_for_selector("#picture-note .note.bad")
    assert words in page.inner_text("#picture-note")
    page.click("#generate")
    page.wait_for_selector(ERROR)
    assert words in page.inner_text(STATUS)
    assert page.input_value(PROMPT) == "kept"


def test_a_good_picture_is_shown_and_used(page, tmp_path):
    Image.new("RGBA", (640, 480), (200, 80, 40, 128)).save(tmp_path / "picture.png")
    page.set_input_files("#picture input[type=file]", tmp_path / "picture.png")
    page.wait_for_selector("#picture-note img")
    assert "640 x 480" in page.inner_text("#picture-note")
    generate(page, "instant", blocks=1)
    page.wait_for_selector(DONE)


def test_words_and_examples_go_into_the_prompt(page):
    page.click("#examples .chip >> nth=1")
    page.wait_for_function(f"document.querySelector('#prompt textarea').value === '{SPEC.examples[1]}'")
    page.fill(PROMPT, "")
    page.click("text=Words this model knows")
    for word in ("snow", "red", "box"):
        page.click(f"#vocabulary .chip:text-is('{word}')")
    page.wait_for_function("document.querySelector('#prompt textarea').value === 'snow red box'")


def test_every_model_says_what_it_needs(page):
    page.click("#model input")
    titles = page.locator("#model [role=option]").all_inner_texts()
    assert len(titles) >= 4
    page.click("#model [role=option] >> text=Self-Forcing")
    page.wait_for_function("document.querySelector('.about').textContent.includes('GPU')")
    page.wait_for_selector("#path", state="hidden")
    if "not here yet" in next(title for title in titles if "Self-Forcing" in title):
        page.click("#generate")
        page.wait_for_selector(ERROR)
        assert "Self-Forcing cannot run here." in page.inner_text(STATUS)


def test_a_preset_fills_the_advanced_fields(page):
    page.click("text=Advanced: codec")
    page.click("#preset input")
    page.click("#preset [role=option]:text-is('QVG-Pro INT2')")
    page.wait_for_function("document.querySelector('#stages input').value === '4'")
    assert page.locator("#memory label").first.inner_text() == "QVG-Pro INT2"
    page.fill("#group input", "48")
    page.wait_for_selector("#length-note .note.bad")
    page.fill("#group input", "32")
    page.wait_for_selector("#length-note .note.bad", state="detached")


def test_a_new_seed_is_written_back(page):
    page.click("#randomize >> text=New seed")
    generate(page, "instant", blocks=1)
    page.wait_for_selector(DONE)
    assert page.input_value("#seed input") != str(FIRST_SEED)


def test_all_by_keyboard(page):
    page.focus(PROMPT)
    page.keyboard.type("instant")
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.closest('[id]')?.id"))
        if "generate" in reached:
            break
    assert {"pad-w", "path-undo", "memory", "seed", "generate"} <= reached
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.wait_for_selector(DONE)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_everything_in_its_width(open_page, phone, fake_app, theme):
    page = open_page(f"{fake_app}?__theme={theme}", phone)

    def overflow() -> int:
        return page.evaluate("document.documentElement.scrollWidth - innerWidth")

    assert overflow() <= 0
    page.click("text=Advanced: codec")
    page.click("text=Words this model knows")
    assert overflow() <= 0
    generate(page, "a red box", blocks=3)
    page.wait_for_selector(DONE)
    assert overflow() <= 0
    page.wait_for_function("document.querySelector('#player').getBoundingClientRect().top < innerHeight / 2")
    page.fill("#seed input", "-1")
    page.click("#generate")
    page.wait_for_selector(ERROR)
    page.wait_for_function(
        "(top => 0 < top && top < innerHeight)(document.querySelector('.status').getBoundingClientRect().top)"
    )
    light = sum(
        page.evaluate(
            "getComputedStyle(document.querySelector('.gauge')).backgroundColor.match(/\\d+/g).map(Number)"
        )
    )
    assert light > 600 if theme == "light" else light < 150
