"""The camera map: drawn on by mouse, touch and keyboard, always in step with the text."""

import json
import math

import pytest

from backends.camera import parse_path, trace, trace_trajectory
from backends.pocket.spec import SPEC
from tests.backends.test_camera import PASTED
from tests.browser.conftest import at_rest
from ui.components.base import script
from ui.form.camera_path import CONSTANTS, FIRST

PATH = "#path :is(textarea, input)"


def path_is(page, text):
    page.wait_for_function(f"document.querySelector({PATH!r}).value === {text!r}")


def in_view(page, selector):
    """In the middle of the window, where nothing that is fixed covers it."""
    page.evaluate(f"document.querySelector({selector!r}).scrollIntoView({{block: 'center'}})")
    page.wait_for_timeout(50)
    return page.locator(selector).first.bounding_box()


def middle(page):
    box = in_view(page, "#camera canvas")
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def clear(page):
    page.click("#path-clear")
    path_is(page, "")
    # A longer note moves what is below it.
    page.wait_for_function("document.querySelector('#path-note').textContent.includes('stands still')")


def test_the_pad_the_timeline_and_the_text_are_one(page, picture):
    clear(page)
    for key in ("w", "w", "right", "a", "still"):
        page.click(f"#pad-{key}")
    path_is(page, "w-8, right-4, a-4, still-4")
    page.get_by_role("button", name="Turn left").first.click()
    page.click("#path-undo")
    page.click("#path-undo")
    path_is(page, "w-8, right-4, a-4")
    page.click("#path-redo")
    path_is(page, "w-8, right-4, a-4, still-4")
    page.click("#path-undo")
    page.fill("#duration input", "10")
    page.click("#pad-a")
    path_is(page, "w-8, right-4, a-14")
    page.wait_for_function(
        "document.querySelector('#path-note').textContent.trim().startsWith('3 moves, 26 latent')"
    )
    page.click("#as-path >> text=As long")
    page.wait_for_function(
        "document.querySelector('#length-note').textContent.trim().startsWith('7 blocks, 28 frames')"
    )

    moves = page.locator("#camera .move")
    assert moves.count() == 3
    assert moves.nth(2).get_attribute("aria-label") == "Move 3: a, 14 latent frames"
    moves.nth(1).click()
    page.fill("#camera .chosen input", "6")
    page.keyboard.press("Enter")
    path_is(page, "w-8, right-6, a-14")
    page.click("#camera [data-action=earlier]")
    path_is(page, "right-6, w-8, a-14")
    moves.nth(1).press("+")
    path_is(page, "right-6, w-9, a-14")
    moves.nth(2).press("Delete")
    path_is(page, "right-6, w-9")
    # The edge between two moves is dragged.
    box = in_view(page, "#camera .move")
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + 10)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] + 60, box["y"] + 10)
    page.mouse.up()
    page.wait_for_function(f"/^right-([7-9]|[1-9][0-9]), w-9$/.test(document.querySelector({PATH!r}).value)")

    page.click("#camera .chip >> text=Look around and back")
    path_is(page, FIRST)
    page.fill(PATH, "w-3, fly-2")
    page.wait_for_selector("#path-note .note.bad")
    assert moves.count() == 2, "a mistake keeps the last good map"
    page.fill(PATH, "d-5")
    page.wait_for_function("document.querySelectorAll('#camera .move').length === 1")
    label = page.get_attribute("#camera canvas", "aria-label")
    assert (
        label == "Camera path from above: 5 latent frames, ending 0.6 metres from the start, 0 degrees turned"
    )


def test_quick_changes_do_not_keep_the_page_busy(page):
    clear(page)
    for pause in range(0, 120, 4):  # so that some come at every moment of an answer
        page.click("#pad-right" if pause % 8 else "#pad-w")
        page.wait_for_timeout(pause)
    at_rest(page)
    page.wait_for_function(
        "document.querySelector('#path-note').textContent.includes('30 moves, 120 latent')"
    )


def test_where_the_text_leads_is_where_the_map_draws_it(page):
    """The browser's own arithmetic, against Python's."""
    for text in ("w-8, right-4, d-3", "w+left-9, still-2, s+right-12, a-7", FIRST):
        found = page.evaluate(
            "([source, text, metres, degrees]) => new Function('text', 'metres', 'degrees', source +"
            " 'const m = parsePath(text); return [tracePath(m, metres, degrees), formatPath(m)];')"
            "(text, metres, degrees)",
            [script(["camera_path"], CONSTANTS), text, SPEC.metres_per_latent, SPEC.degrees_per_latent],
        )
        expected = trace(parse_path(text), SPEC.metres_per_latent, SPEC.degrees_per_latent)
        assert found[1] == text
        assert len(found[0]) == len(expected)
        for one, two in zip(found[0], expected, strict=True):
            assert math.dist((one["x"], one["y"], one["heading"]), two) < 1e-9


def test_the_browser_reads_text_as_pasted_as_python_does(page):
    found = page.evaluate(
        "([source, texts]) => new Function('texts', source +"
        " 'return texts.map(parsePath).map((moves) => moves && formatPath(moves));')(texts)",
        [script(["camera_path"], CONSTANTS), [row["text"] for row in PASTED]],
    )
    assert found == [row.get("path") for row in PASTED]


def test_what_is_pasted_is_drawn_as_it_is_understood(page):
    for text in ("ｗ－８，ｒｉｇｈｔ－４。", "`w–8.0, right–4.0,`"):
        clear(page)
        page.fill(PATH, text)
        page.wait_for_function(
            "document.querySelector('#path-note').textContent.trim().startsWith('2 moves, 12 latent')"
        )
        page.wait_for_function("document.querySelectorAll('#camera .move').length === 2")
        assert page.input_value(PATH) == text
    page.fill(PATH, "w-8.5")
    page.wait_for_function("document.querySelector('#path-note').textContent.includes('whole number')")


def test_a_line_is_drawn_and_the_camera_turned_by_mouse(page, picture):
    clear(page)
    x, y = middle(page)
    page.mouse.move(x, y)
    page.mouse.down()
    for step in range(1, 13):
        page.mouse.move(x + 2.5 * step, y - 6 * step)
    page.mouse.up()
    page.wait_for_function(f"/w/.test(document.querySelector({PATH!r}).value)")
    drawn = page.input_value(PATH)
    end = trace(parse_path(drawn), SPEC.metres_per_latent, SPEC.degrees_per_latent)[-1]
    assert end.x > 0
    assert math.degrees(math.atan2(end.x, end.y)) == pytest.approx(22.6, abs=6)
    picture(page, "camera")
    # One click more: a point to walk to.
    page.mouse.click(x - 60, y)
    page.wait_for_function(f"document.querySelector({PATH!r}).value !== {drawn!r}")
    walked = page.input_value(PATH)
    assert walked.startswith(drawn.rpartition("-")[0])
    assert "left" in walked.removeprefix(drawn) or "right" in walked.removeprefix(drawn)

    # The ring ahead of the camera turns it: straight ahead at first, dragged a quarter to the right.
    clear(page)
    x, y = middle(page)
    page.mouse.move(x, y - 40)
    page.mouse.down()
    for step in range(1, 10):
        page.mouse.move(x + 40 * math.sin(step / 9 * math.pi / 2), y - 40 * math.cos(step / 9 * math.pi / 2))
    page.mouse.up()
    page.wait_for_function(f"/^right-3[5-7]$/.test(document.querySelector({PATH!r}).value)")


def test_a_path_is_walked_by_keys_held_on_the_map_only(page):
    clear(page)
    page.focus("#prompt textarea")
    page.keyboard.type("was")
    assert page.input_value(PATH) == ""
    page.focus("#camera .board")
    page.keyboard.down("KeyW")
    page.keyboard.down("ArrowRight")
    page.wait_for_function(f"/right-[2-9]$/.test(document.querySelector({PATH!r}).value)")
    page.keyboard.up("ArrowRight")
    page.keyboard.up("KeyW")
    path = page.input_value(PATH)
    assert "w+right" in path
    page.wait_for_timeout(400)
    after = page.input_value(PATH)
    page.wait_for_timeout(400)
    assert page.input_value(PATH) == after, "keys that were let go still write"
    page.keyboard.press("Backspace")
    page.wait_for_function(f"document.querySelector({PATH!r}).value !== {after!r}")


def test_files_come_in_and_go_out(page, tmp_path):
    page.fill(PATH, "w-3, right-2")
    page.wait_for_function("document.querySelectorAll('#camera .move').length === 2")
    for action in ("moves", "trajectory"):
        with page.expect_download() as event:
            page.click(f"#camera [data-action={action}]")
        event.value.save_as(tmp_path / f"{action}.json")
    assert json.loads((tmp_path / "moves.json").read_text()) == [
        {"keys": ["w"], "n": 3},
        {"keys": ["right"], "n": 2},
    ]
    assert len(json.loads((tmp_path / "trajectory.json").read_text())) == 6
    for action in ("moves", "trajectory"):
        clear(page)
        page.set_input_files("#camera input[type=file]", tmp_path / f"{action}.json")
        path_is(page, "w-3, right-2")
    (tmp_path / "bad.json").write_text('{"0": {}}')
    page.set_input_files("#camera input[type=file]", tmp_path / "bad.json")
    page.wait_for_function(
        "document.querySelector('#camera .said').textContent.includes('extrinsic is not 4 rows')"
    )
    # Pasted into the field, a trajectory becomes moves too.
    page.fill(
        PATH, trace_trajectory(parse_path("a-2, left-3"), SPEC.metres_per_latent, SPEC.degrees_per_latent)
    )
    path_is(page, "a-2, left-3")


def test_a_finger_draws(open_page, phone, fake_app):
    page = open_page(fake_app, phone)
    clear(page)
    x, y = middle(page)
    client = page.context.new_cdp_session(page)

    def touch(kind, *points):
        client.send(
            "Input.dispatchTouchEvent",
            {"type": kind, "touchPoints": [{"x": px, "y": py} for px, py in points]},
        )

    touch("touchStart", (x, y))
    for step in range(1, 9):
        touch("touchMove", (x, y - 8 * step))
    touch("touchEnd")
    page.wait_for_function(f"/^w-[0-9]+$/.test(document.querySelector({PATH!r}).value)")
    # A shorter note moves the pad from under the finger.
    page.wait_for_function("document.querySelector('#path-note').textContent.includes('1 move')")
    page.tap("#pad-right")
    page.wait_for_function(f"/^w-[0-9]+, right-4$/.test(document.querySelector({PATH!r}).value)")
