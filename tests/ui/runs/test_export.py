"""What exports write over their sides, and how much of a dropped file is read."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from backends.media import decoding
from tests.ui.fake_worker import FakeWorker
from ui import format, safe_json, text
from ui.page import build
from ui.runs import export, history, mp4


def signs() -> set[str]:
    """Every character beyond ASCII in the words of the page."""
    trees = [ast.parse(Path(file).read_text(encoding="utf-8")) for file in (text.__file__, format.__file__)]
    strings = (node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant))
    return {each for words in strings if isinstance(words, str) for each in words if not each.isascii()}


def test_every_sign_of_the_page_can_be_drawn():
    assert {"×", "–"} <= signs()
    for sign in signs() | set("×–—·°“”‘’…éüñßøčłĳžåçΩя→≈≤²") | {chr(code) for code in range(32, 127)}:
        assert export.has_glyph(sign), sign
    assert not export.has_glyph("雪")


def test_what_cannot_be_drawn_becomes_what_it_resembles():
    assert export.drawable("6.8× · 90° “é”") == "6.8× · 90° “é”"
    assert export.drawable("Ａ１ ❤ 雪") == "A1 ? ?"
    assert export.drawable("") == ""


def test_signs_differ_in_the_picture(tmp_path):
    frame = np.zeros((4, 128, 224, 3), np.uint8)
    mp4.join([mp4.encode_segment(frame, 12).data], tmp_path / "a.mp4", 12, {})

    def strip(note: str, name: str = "a") -> np.ndarray:
        side = export.Side(tmp_path / "a.mp4", name, note)
        export.write_animation([side], tmp_path / "a.gif", 12)
        with Image.open(tmp_path / "a.gif") as gif:
            return np.asarray(gif.convert("RGB"))

    assert not np.array_equal(strip("6.8×"), strip("6.8·"))
    assert not np.array_equal(strip("", "×"), strip("", "\u2013"))


@pytest.mark.parametrize("kind", ["json", "mp4"])
def test_long_settings_of_a_dropped_file_are_said_and_not_read(tmp_path, monkeypatch, kind):
    settings = {"form": {"prompt": "x" * (safe_json.MOST_BYTES + 1)}}
    file = tmp_path / f"a.{kind}"
    if kind == "json":
        file.write_text(json.dumps(settings))
    else:
        frame = np.zeros((1, 32, 32, 3), np.uint8)
        mp4.join([mp4.encode_segment(frame, 8).data], file, 8, settings)
    monkeypatch.setattr(safe_json, "loads", lambda words: pytest.fail("read"))
    with pytest.raises(ValueError, match="longer than 1 MiB"):
        history.read_settings(file)


def test_two_files_are_looked_at_at_once_by_all_visitors(tmp_path):
    page = build(FakeWorker(), tmp_path)
    looks = [each for each in page.fns.values() if each.name in ("look_at_picture", "look_at_clip")]
    assert len(looks) == 2
    assert {each.concurrency_limit for each in looks} == {decoding.AT_ONCE}
    assert len({each.concurrency_id for each in looks}) == 1
