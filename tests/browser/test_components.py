"""Every component shows what users write as it was written; and a panel is its files and a row."""

from __future__ import annotations

from typing import Any

from tests.browser.test_page import PROMPT, generate

# Signs of markup, of a template and of an entity, which is to be read as it is typed.
HOSTILE = """<b>bold</b><img src=x onerror=alert(1)> &amp; & "it's" ${1+1} {{value}} `x`"""


def said(page: Any, selector: str) -> str:
    return page.evaluate("selector => document.querySelector(selector).textContent", selector)


def test_what_users_write_is_shown_as_written(page):
    generate(page, HOSTILE, blocks=3)
    page.wait_for_selector(".screen[data-state=final] video")
    page.wait_for_selector("#history li")
    assert f"Understood: {HOSTILE}." in said(page, "#status")
    assert said(page, "#history .name") == HOSTILE
    assert page.get_attribute("#history .open", "aria-label") == f"Show: {HOSTILE}"
    # A panel whose only row is in a fixture: its markup, its script, its style, and its values after a run.
    echo = page.locator("#echo .prompt-echo")
    assert echo.get_attribute("title") == f"Asked for: {HOSTILE}"
    assert echo.locator("b[data-name='QVG INT2']").inner_text() == HOSTILE
    assert echo.locator("output").inner_text() == HOSTILE
    assert echo.evaluate("each => getComputedStyle(each).letterSpacing") == "3px"
    assert echo.locator("i").inner_text() == "<em>QVG INT2</em>", "markup without its tag is text"

    page.fill("#path textarea, #path input", "<i>-2")
    page.wait_for_selector("#path-note .note.bad")
    assert "'<i>' is not a key" in said(page, "#path-note")
    assert not page.locator(":is(#status, #history, #echo, #path-note) :is(img[src=x], p b, p i)").count()


def test_what_waits_and_what_went_wrong_is_shown_as_written(page):
    generate(page, "slow", blocks=8)
    page.wait_for_selector(".status[data-kind=busy]")
    page.fill(PROMPT, HOSTILE)
    page.click("#generate")
    page.wait_for_selector("#queue li")
    assert HOSTILE[:40] in said(page, "#queue .name")
    assert page.get_attribute("#queue [data-do=remove]", "aria-label").startswith(
        f"Remove from the queue: {HOSTILE[:40]}"
    )
    page.click("#queue [data-do=remove]")
    page.click("#stop")
    page.wait_for_selector(".status[data-kind=done]")


FILL = """([word, samples]) => {
  const filled = (part) => typeof part === "string" ? word : Array.isArray(part) ? part.map(filled)
    : part && typeof part === "object"
    ? Object.fromEntries(Object.entries(part).map(([key, each]) => [key, filled(each)])) : part;
  const templates = gradio_config.components.map((each) => each.props).filter((each) => each.html_template);
  return templates.map((each) => {
    const given = filled({ ...each.props, value: samples[each.elem_id] || each.value });
    const fill = new Function(...Object.keys(given), "return `" + each.html_template + "`");
    // Of a document without a window, which fetches nothing.
    const box = new DOMParser().parseFromString(fill(...Object.values(given)), "text/html").body;
    const own = [...box.querySelectorAll("*")].flatMap((one) => [...one.attributes]).map((one) => one.value);
    return [each.elem_id, [box.textContent, ...own].join(" ")];
  });
}"""
WORD = """<b>&amp;"'"""
# Values of components that show nothing before something has happened.
SAMPLES = {
    "queue": {"jobs": [{"id": "x", "name": "x", "place": 1}]},
    "history": {"runs": [{"id": "x", "name": "x", "made": "x", "sides": "x", "picture": "x"}], "note": "x"},
    "machine": {"parts": [{"title": "x", "bad": True, "sentences": ["x"]}]},
    "status": {"kind": "x", "text": "x", "percent": 1, "notes": ["x"]},
    "problem": {"said": "x", "kind": "bad", "picture": ""},
    "picture-note": {"said": "x", "kind": "plain", "picture": "x"},
    "compare": {
        "columns": ["x"],
        "rows": [["x", "x"]],
        "note": "x",
        "charts": [{"title": "x", "low": "x", "high": "x", "lines": ["x"]}],
    },
    "models": {
        "models": [
            {"id": "x", "title": "x", "state": "x", "said": "x", "size": "x", "licence": "x", "parts": ["x"]}
            | {"trusted": "x", "progress": "x", "problem": "x", "percent": 1}
            | dict.fromkeys(("asks", "gated", "can_download", "can_delete"), True)
        ]
    },
}


def test_no_template_takes_text_for_markup_or_escapes_it_twice(page):
    shown = page.evaluate(FILL, [WORD, SAMPLES])
    assert len(shown) > 20
    for name, text in shown:
        # What is left when all that was filled in is taken out are signs of our own, of which there are none.
        assert name == "echo" or not set("<>&") & set(text.replace(WORD, "")), name
    filled = {name for name, text in shown if WORD in text}
    assert filled >= {
        *SAMPLES,
        "player",
        "gauge",
        "camera",
        "vocabulary",
        "tries",
        "budgets",
        "echo",
        "device",
    }
