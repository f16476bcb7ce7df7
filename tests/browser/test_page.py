"""What a visitor sees and does, in a real browser, with a fake worker behind the page."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from backends.pocket.spec import SPEC
from tests.browser.conftest import at_rest
from tests.ui.fake_worker import counter
from ui.form.camera_path import FIRST
from ui.form.values import FIRST_SEED
from ui.runs import mp4

PROMPT, PATH = "#prompt textarea", "#path :is(textarea, input)"
STATUS, DONE, ERROR = ".status .line", ".status[data-kind=done]", ".status[data-kind=error]"
PROBLEM = "#problem .note.bad"


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


def said(page: Any, words: str, timeout: int = 15_000) -> None:
    """Waits for words in the status line."""
    page.wait_for_function(
        f"document.querySelector({STATUS!r}).textContent.includes({words!r})", timeout=timeout
    )


def shown(page: Any, loop: bool) -> list[int]:
    return page.evaluate(
        f"shown.filter(frame => frame.loop === {str(loop).lower()}).map(frame => frame.number)"
    )


def in_step(page: Any) -> None:
    """Waits until for a second, of a film of three, sides have been less than a frame of 83 ms apart."""
    page.evaluate("drifts.length = 0")
    page.wait_for_function("drifts.length >= 25 && drifts.slice(-25).every(drift => drift < 0.05)")


def all_show(page: Any, frame: int) -> None:
    """Waits until every side has stopped at that frame, and the difference is drawn of it."""
    page.wait_for_function(
        "frame => { const videos = [...document.querySelectorAll('#player video')];"
        " return videos.every(video => video.paused && !video.seeking"
        " && Math.floor(video.currentTime * 12 + 0.01) === frame) &&"
        " +document.querySelector('canvas.difference').dataset.frame === frame; }",
        arg=frame,
    )


def meter(page: Any) -> int:
    return int(page.get_attribute("[role=meter]", "aria-valuenow"))


def download(page: Any, button: str, folder: Path, timeout_ms: float = 15_000) -> Path:
    with page.expect_download(timeout=timeout_ms) as event:
        page.click(button)
    event.value.save_as(folder / event.value.suggested_filename)
    return folder / event.value.suggested_filename


def test_from_click_to_download(page, tmp_path, picture):
    assert page.input_value(PROMPT) == SPEC.examples[0]
    assert page.input_value(PATH) == FIRST
    picture(page, "empty")
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
    # Block by block; a busy machine is looked at less often.
    assert len(set(buffered)) >= 3
    assert len(set(held)) >= 3
    assert "32 frames, 2.7 s of video" in page.inner_text(STATUS)
    assert "Understood: a red box." in page.inner_text("#status .note >> nth=0")

    page.wait_for_selector(".screen[data-state=final] video")
    page.wait_for_function("shown.filter(frame => frame.loop).length > 40")
    live = shown(page, loop=False)
    assert live == sorted(live), "the player went back while blocks arrived"
    assert live[-1] == 31
    assert len(set(live)) >= 24
    looped = shown(page, loop=True)
    assert looped != sorted(looped), "the finished video does not loop"
    picture(page, "done")

    file = download(page, "a.download", tmp_path)
    assert file.name == f"pocket-world-a-red-box-seed-{FIRST_SEED}.mp4"
    assert [counter(frame) for frame in mp4.decode(file)] == list(range(32))
    assert mp4.read_settings(file)["prompt"] == "a red box"

    # Dropped back anywhere on another page, it fills the form.
    page.reload()
    page.wait_for_selector("#memory-note .note")
    page.fill(PROMPT, "something else")
    page.evaluate(
        "async (bytes) => { const carrier = new DataTransfer();"
        " carrier.items.add(new File([new Uint8Array(bytes)], 'video.mp4', {type: 'video/mp4'}));"
        " document.querySelector('#gauge').dispatchEvent("
        "new DragEvent('drop', {dataTransfer: carrier, bubbles: true, cancelable: true})); }",
        list(file.read_bytes()),
    )
    page.wait_for_function("document.querySelector('#prompt textarea').value === 'a red box'")
    page.wait_for_function("document.querySelector('#blocks input[type=number]').value === '8'")


def test_sides_play_in_step_and_are_wiped_subtracted_and_exported(page, tmp_path, picture):
    page.click("#tries button[data-name='Which codec?']")
    page.wait_for_function("document.querySelectorAll('#player video').length === 4")
    page.wait_for_selector("#compare [data-shown=true] tbody tr >> nth=3")
    picture(page, "comparing")
    # One that ran ahead waits for the others.
    page.wait_for_function(
        "() => { const ahead = document.querySelectorAll('#player video')[1], { buffered } = ahead;"
        " if (!buffered.length || buffered.end(0) < ahead.currentTime + 0.6) return false;"
        " ahead.currentTime += 0.5; return true; }"
    )
    page.wait_for_selector(DONE)
    page.wait_for_selector(".screen[data-state=final]")
    in_step(page)
    # One that falls behind catches up; by itself, a video would stay as far behind.
    page.evaluate("document.querySelectorAll('#player video')[2].currentTime -= 0.2")
    in_step(page)

    live = page.evaluate(
        "[...new Set(shown.map(frame => frame.pane))].map(pane =>"
        " shown.filter(frame => frame.pane === pane && !frame.loop).map(frame => frame.number))"
    )
    assert len(live) == 4
    assert all(numbers == sorted(numbers) for numbers in live), f"a side went back as blocks came: {live}"

    page.check(".views input[value=wipe]")
    box = page.locator(".pane.first .holder").bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 40)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.25, box["y"] + 40)
    page.mouse.up()
    assert (
        page.evaluate("getComputedStyle(document.querySelector('.screen')).getPropertyValue('--wipe')")
        == "25.00%"
    )
    page.focus(".wipe")
    page.keyboard.press("ArrowRight")
    assert page.input_value(".wipe") == "0.26"
    picture(page, "wipe")
    page.check(".views input[value=difference]")
    page.select_option("select.other", "2")
    page.click(".toggle")
    page.wait_for_selector(".toggle[aria-label=Play]")
    # Beyond the last frame there is none to step to.
    page.fill(".seek", "3.95")
    all_show(page, 47)
    page.click(".playback [data-step='1']")
    page.click(".playback [data-step='-1']")
    all_show(page, 46)
    page.fill(".seek", "1")
    all_show(page, 12)
    page.click(".playback [data-step='1']")
    all_show(page, 13)
    blue = page.evaluate(
        "() => { const c = document.querySelector('canvas.difference');"
        " return [...c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data]; }"
    )
    assert blue[0] < 8 and blue[1] < 8 and 12 <= blue[2] <= 20, "the fake tints its third side by 16 in blue"
    page.fill(".gain", "16")
    assert "brightness(16)" in page.get_attribute("canvas.difference", "style")
    picture(page, "difference")

    video = download(page, "#export-video", tmp_path)
    assert len(list(mp4.decode(video))) == 48
    assert Image.open(download(page, "#export-gif", tmp_path, 60_000)).n_frames == 48
    told = json.loads(download(page, "#export-json", tmp_path).read_text())
    assert [side["codec"] for side in told["made"]["sides"]] == ["BF16", "QVG INT2", "QVG-Max", "KIVI INT2"]


def test_at_the_same_budget_one_side_stops_and_says_where(page, picture):
    page.click("#memory input[value=compare]")
    page.wait_for_selector("#sides")
    set_blocks(page, 12)
    page.focus("#budgets input[type=range]")
    page.keyboard.press("Home")  # its least, a twentieth
    page.wait_for_function("document.querySelector('#budget input').value === '2'")
    page.wait_for_function("document.querySelector('#budgets output').textContent === '2 MiB, 5 % of BF16'")
    # A click is heard while the one before has not been answered yet.
    page.evaluate(
        "() => { const find = name => [...document.querySelectorAll('#budgets .chip')]"
        ".find(chip => chip.textContent === name);"
        " find('no limit').click(); setTimeout(() => find('24 GB card').click(), 5); }"
    )
    page.wait_for_function("document.querySelector('#budget input').value > 1000")
    page.wait_for_function("document.querySelector('#budgets output').textContent === 'no limit'")
    page.fill("#budget input", "23")
    page.wait_for_selector("#when-full input[value=stop]")
    page.wait_for_function("document.querySelector('#budget-note').textContent.includes('drops frames from')")
    page.check("#when-full input[value=stop]")
    page.wait_for_function(
        "document.querySelector('#budget-note').textContent.includes('out of memory at frame 21')"
    )
    picture(page, "budget")
    generate(page, "instant")
    page.wait_for_selector(DONE)
    page.wait_for_selector(".screen[data-state=final]")
    first, second = page.locator(".pane .said").all_inner_texts()
    assert "out of memory at frame 21" in first
    assert "out of memory" not in second
    assert page.locator("[role=meter]").count() == 2
    assert page.locator(".gauge .bar .mark.budget").count() == 2
    picture(page, "out-of-budget")


def test_a_queue_that_is_changed_stopped_and_remembered(page, open_page, fake_app, picture):
    generate(page, "slow", blocks=60)
    page.wait_for_function("shown.length > 0")
    assert page.inner_text("#generate") == "Add to queue"
    for blocks in (1, 2, 3):
        generate(page, "instant", blocks=blocks)
        page.wait_for_selector(f"#queue li >> nth={blocks - 1}")
    names = page.locator("#queue .name")
    assert names.nth(2).inner_text().endswith("3 blocks")
    picture(page, "queue")
    page.locator("#queue li >> nth=2").get_by_role("button", name="Earlier").click()
    page.wait_for_function("document.querySelectorAll('#queue .name')[1].textContent.endsWith('3 blocks')")
    page.locator("#queue li >> nth=0").get_by_role("button", name="Remove from the queue").click()
    page.wait_for_function("document.querySelectorAll('#queue li').length === 2")

    # Another tab of the same visitor sees the same run, and the queue.
    other = open_page(fake_app)
    other.wait_for_function("shown.length > 0")
    assert other.locator("#queue li").count() == 2
    page.close()

    # The run went on without its tab.
    other.click("#stop")
    other.wait_for_function("document.querySelectorAll('#queue li').length === 0")
    other.wait_for_selector(DONE)
    other.wait_for_selector("#stop", state="hidden")

    def lengths() -> list[str]:
        return other.evaluate(
            "[...document.querySelectorAll('#history li')].map(li => li.querySelector('.small').innerText)"
        )

    for _ in range(60):
        if [made.strip()[-5:] for made in lengths()[:2]] == ["1.0 s", "0.7 s"]:
            break
        other.wait_for_timeout(250)
    assert [made.strip()[-5:] for made in lengths()[:2]] == ["1.0 s", "0.7 s"], lengths()
    cards = other.locator("#history li")
    newest = cards.nth(0).locator(".small").nth(0).inner_text()
    cards.nth(2).locator(".open").click()
    said(other, "Stopped: ")
    assert "of cache freed" in other.inner_text(STATUS)

    # Gone, once it is really meant.
    other.locator("#history li >> nth=0").get_by_role("button", name="Delete").click()
    other.get_by_role("button", name="Delete: instant").first.click()
    other.wait_for_function(
        f"!document.querySelector('#history li .small').textContent.endsWith({newest[-16:]!r})"
    )


def test_a_run_is_undone_redone_retaken_and_extended(page, tmp_path, picture):
    page.fill(PATH, "w-6, left-4")
    generate(page, "instant", blocks=3)
    page.wait_for_selector(DONE)
    page.click("#undo")
    said(page, "2 blocks left")
    page.click("#undo")
    said(page, "1 block left")
    assert page.is_disabled("#undo")
    page.click("#redo")
    said(page, "The block is back: 2 blocks")
    assert [counter(frame) for frame in mp4.decode(download(page, "a.download", tmp_path))] == list(range(8))
    page.fill(PATH, "right-9")
    page.fill("#more input", "2")
    page.evaluate("shown.length = 0")
    page.click("#extend")
    page.wait_for_selector(".screen[data-state=final] video")
    page.wait_for_function("shown.some(frame => frame.number === 15)")
    assert [counter(frame) for frame in mp4.decode(download(page, "a.download", tmp_path))] == list(range(16))
    before = page.get_attribute("a.download", "href")
    page.click("#retake")
    page.wait_for_function(
        "before => !['', before].includes(document.querySelector('a.download')?.getAttribute('href') ?? '')",
        arg=before,
    )
    said(page, "16 frames")
    kept = mp4.read_settings(download(page, "a.download", tmp_path))
    assert kept["walked"] == "w-6, left-1, right-8"
    assert kept["reseeds"][0][0] == 3
    picture(page, "after")
    page.click("#again")
    said(page, "Done: 16 frames")


def test_steering_by_keys_and_by_touch(page, picture):
    page.fill(PATH, "")
    generate(page, "a walk", blocks=60)
    page.wait_for_selector(".drive", state="visible")
    page.fill(PROMPT, "was")  # typed into a field, it steers nothing
    page.click(".drive .focus")
    page.keyboard.down("KeyW")
    page.wait_for_selector(".drive button[data-key=w].held")
    page.keyboard.down("ArrowLeft")
    page.wait_for_selector(".drive button[data-key=left].held")
    picture(page, "drive")
    page.keyboard.up("ArrowLeft")
    page.keyboard.up("KeyW")
    page.wait_for_selector(".drive button.held", state="detached")
    box = page.locator(".drive button[data-key=d]").bounding_box()
    page.mouse.move(box["x"] + 9, box["y"] + 9)
    page.mouse.down()
    page.wait_for_selector(".drive button[data-key=d].held")
    page.mouse.up()
    page.wait_for_timeout(2_000)
    page.click("#stop")
    page.wait_for_selector(DONE)
    page.wait_for_selector(".drive", state="hidden")
    page.locator("#history li >> nth=0").get_by_role("button", name="To the form").click()
    page.wait_for_function("/w/.test(document.querySelector('#path :is(textarea, input)').value)")
    walked = page.input_value(PATH)
    assert "w+left" in walked
    assert "d-" in walked


def test_a_run_that_fails_can_still_be_watched(page, picture):
    generate(page, "fail", blocks=6)
    page.wait_for_selector(ERROR)
    assert "Out of memory in block 3" in page.inner_text(STATUS)
    page.wait_for_selector("a.download", state="visible")
    page.wait_for_function("shown.some(frame => frame.number === 7)")
    picture(page, "error")
    # A second run replaces it.
    page.evaluate("shown.length = 0")
    generate(page, "again", blocks=4)
    page.wait_for_selector("a.download", state="hidden")
    page.wait_for_selector(".screen[data-state=final] video")
    assert max(shown(page, loop=False)) == 15


def test_without_media_source_the_finished_file_is_shown(open_page, fake_app):
    page = open_page(fake_app, script="delete window.MediaSource; delete window.ManagedMediaSource;")
    generate(page, "instant", blocks=2)
    page.wait_for_selector(".screen[data-state=final] video")
    page.wait_for_function("shown.some(frame => frame.number === 7)")


def test_mistakes_are_explained_and_the_form_is_kept(page, tmp_path):
    page.fill(PATH, "w-8, fly-3")
    page.wait_for_selector("#path-note .note.bad")
    assert "move 2 (character 6): 'fly' is not a key" in page.inner_text("#path-note")
    generate(page, "kept")
    page.wait_for_selector(PROBLEM)
    assert "move 2 (character 6)" in page.inner_text(PROBLEM)
    assert page.input_value(PROMPT) == "kept"
    assert page.input_value(PATH) == "w-8, fly-3"
    page.fill(PATH, "w-8")
    page.wait_for_selector("#path-note .note.bad", state="detached")

    for number, (content, words) in enumerate(
        ((b"", "empty (0 bytes)"), (b"<html>" * 99, "not a picture"), (None, "40 megapixels"))
    ):
        file: Path = tmp_path / f"picture-{number}.png"
        if content is None:
            Image.new("1", (8000, 5000)).save(file)
        else:
            file.write_bytes(content)
        page.set_input_files("#picture input[type=file]", file)
        page.wait_for_selector("#picture-note .note.bad")
        assert words in page.inner_text("#picture-note")
        page.click("#generate")
        page.wait_for_function(f"document.querySelector('#problem').textContent.includes({words!r})")
        page.click("#picture button[aria-label*='lear' i], #picture button[aria-label*='emove' i] >> nth=0")
        page.wait_for_selector("#picture-note .note.bad", state="detached")
    assert page.input_value(PROMPT) == "kept"

    Image.new("RGBA", (640, 480), (200, 80, 40, 128)).save(tmp_path / "good.png")
    page.set_input_files("#picture input[type=file]", tmp_path / "good.png")
    page.wait_for_selector("#picture-note img")
    assert "640 x 480" in page.inner_text("#picture-note")
    generate(page, "instant", blocks=1)
    page.wait_for_selector(DONE)
    assert not page.query_selector(PROBLEM)


def test_words_models_presets_and_seeds(page):
    page.click("#examples .chip >> nth=1")
    page.wait_for_function(f"document.querySelector('#prompt textarea').value === '{SPEC.examples[1]}'")
    page.fill(PROMPT, "")
    page.click("text=Words this model knows")
    for word in ("snow", "red", "box"):
        page.click(f"#vocabulary .chip:text-is('{word}')")
    page.wait_for_function("document.querySelector('#prompt textarea').value === 'snow red box'")

    page.click("text=Advanced:")
    page.click("#preset input")
    page.click("#preset [role=option]:text-is('QVG-Pro INT2')")
    page.wait_for_function("document.querySelector('#stages input').value === '4'")
    assert page.locator("#memory label").first.inner_text() == "QVG-Pro INT2"
    page.fill("#group input", "48")
    page.wait_for_selector("#length-note .note.bad")
    page.fill("#group input", "32")
    page.wait_for_selector("#length-note .note.bad", state="detached")
    before = page.get_attribute("[role=meter]", "aria-valuetext")
    page.click("#memory input[value=bf16]")
    page.wait_for_function("document.querySelector('.gauge .ratio strong').textContent === '1.0×'")
    page.click("#memory input[value=quantised]")
    page.wait_for_function(f"document.querySelector('[role=meter]').ariaValueText === {before!r}")
    assert "smaller than BF16" in before
    assert "instead of" in page.inner_text("#memory-note")

    page.click("#randomize >> text=New seed")
    generate(page, "instant", blocks=1)
    page.wait_for_selector(DONE)
    assert page.input_value("#seed input") != str(FIRST_SEED)

    page.click("#model input")
    titles = page.locator("#model [role=option]").all_inner_texts()
    assert len(titles) >= 4
    page.click("#model [role=option] >> text=Self-Forcing")
    page.wait_for_function("document.querySelector('.about').textContent.includes('GPU')")
    page.wait_for_selector("#path", state="hidden")
    for own in ("#clip", "#changes", "#preview"):
        page.wait_for_selector(own)
    if "not here yet" in next(title for title in titles if "Self-Forcing" in title):
        page.click("#generate")
        page.wait_for_selector(ERROR)
        assert "Self-Forcing cannot run here." in page.inner_text(STATUS)


def test_a_model_is_downloaded_under_its_licence_and_deleted(page, picture):
    page.click("text=Models on this machine")
    item = page.locator("#models li[data-id=longcat]")
    item.get_by_role("button", name="Download").click()
    item.locator(".note.bad").wait_for()
    assert "has to be accepted first: Not for sale." in item.inner_text()
    picture(page, "models")
    item.get_by_role("checkbox").check()
    item.get_by_role("button", name="Download").click()
    item.locator(".state.ready").wait_for()
    page.click("#model input")
    assert "LongCat-Video" in page.locator("#model [role=option]").all_inner_texts()[-1]
    assert "not here" not in page.locator("#model [role=option]").all_inner_texts()[-1]
    page.keyboard.press("Escape")
    item.get_by_role("button", name="Delete").click()
    item.get_by_role("button", name="Really delete?").click()
    item.locator(".state.absent").wait_for()


def test_all_by_keyboard(page):
    page.focus(PROMPT)
    page.keyboard.type("instant")
    reached = set()
    for _ in range(90):
        page.keyboard.press("Tab")
        reached.update(
            page.evaluate(
                "(() => { const ids = []; for (let e = document.activeElement; e; e = e.parentElement)"
                " ids.push(e.id); return ids; })()"
            )
        )
        if "generate" in reached:
            break
    assert {"pad-w", "path-clear", "memory", "budget", "budgets", "seed", "generate"} <= reached
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Enter")
    page.wait_for_selector(DONE)
    unnamed = page.evaluate(
        "[...document.querySelectorAll('button, input, select, textarea, a, video, [role=img], canvas')]"
        ".filter(e => e.checkVisibility() && !(e.ariaLabel || e.textContent.trim() || e.labels?.length"
        " || e.title || e.getAttribute('aria-labelledby') || e.placeholder))"
        ".map(e => e.outerHTML.slice(0, 120))"
    )
    assert unnamed == []


def test_what_is_known_of_this_machine_is_behind_its_name(page):
    page.click("#machine summary")
    page.wait_for_function("/app.py --check/.test(document.querySelector('#machine .sheet').textContent)")
    assert page.locator("#machine .sheet").is_visible(), "it stays open when the report comes"
    edges = page.locator("#machine .sheet").bounding_box()
    assert edges["x"] >= 0 and edges["x"] + edges["width"] <= page.viewport_size["width"]
    page.click("#machine summary")
    assert not page.locator("#machine .sheet").is_visible()


def test_light_and_dark_are_remembered(page):
    def dark():
        return page.evaluate("document.body.classList.contains('dark')")

    before = dark()
    page.click("#theme button")
    assert dark() is not before
    # What is still asked for when a page is left is logged as an error.
    page.wait_for_function("/GiB/.test(document.querySelector('#device').textContent)")
    at_rest(page)
    page.reload()
    page.wait_for_selector("#theme button:not(:empty)")
    assert dark() is not before
    page.click("#theme button")
    assert dark() is before


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_everything_in_its_width(open_page, phone, fake_app, theme, picture):
    page = open_page(f"{fake_app}?__theme={theme}", phone)

    def overflow() -> int:
        return page.evaluate("document.documentElement.scrollWidth - innerWidth")

    assert overflow() <= 0
    # The page ends above the buttons that stay on the screen.
    page.evaluate("scrollTo(0, document.documentElement.scrollHeight)")
    page.wait_for_function(
        "document.querySelector('footer').getBoundingClientRect().bottom"
        " <= document.querySelector('.actions').getBoundingClientRect().top"
    )
    page.click("text=Advanced:")
    page.click("text=Words this model knows")
    assert overflow() <= 0
    picture(page, f"phone-{theme}")
    page.click("#memory input[value=compare]")
    generate(page, "a red box", blocks=3)
    page.wait_for_selector(DONE)
    assert overflow() <= 0
    page.wait_for_function("document.querySelector('#player').getBoundingClientRect().top < innerHeight / 2")
    picture(page, f"phone-{theme}-compared", full=True)
    page.fill("#seed input", "-1")
    page.click("#generate")
    page.wait_for_selector(PROBLEM)
    page.wait_for_function(
        "(top => 0 < top && top < innerHeight)"
        "(document.querySelector('#problem').getBoundingClientRect().top)"
    )
    light = sum(
        page.evaluate(
            "getComputedStyle(document.querySelector('.gauge')).backgroundColor.match(/\\d+/g).map(Number)"
        )
    )
    assert light > 600 if theme == "light" else light < 150
