"""JSON that anyone may have written, and values that the page can send."""

import json
import math

import pytest

from ui import safe_json
from ui.form.values import FormError
from ui.runs import history


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_bytes_are_read_in_any_encoding_of_json(encoding):
    assert safe_json.loads('{"prompt": "é 红盒子 😀"}'.encode(encoding)) == {"prompt": "é 红盒子 😀"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("\ufeff[1]", [1]),
        (str(2**53), 2**53),
        (str(2**53 + 1), None),
        (str(-(2**53)), -(2**53)),
        ("9" * 100_000, None),
        ("[-0.0, 1e400, 1e-400, 1.5e15]", [0.0, None, 0.0, 1.5e15]),
        ("0." + "3" * 100_000, float("0." + "3" * 100_000)),
        ("[NaN, Infinity, -Infinity]", [None] * 3),
        (r'"\ud83d\ude00 \ud800"', "😀 ?"),
        ('{"\ud800": ["\udfff"]}', {"?": ["?"]}),
        (r'"\\ud800"', "\\ud800"),
        ('[true, null, {"a": {}}]', [True, None, {"a": {}}]),
    ],
    ids=lambda value: str(value)[:20],
)
def test_json_is_sound(text, value):
    assert safe_json.loads(text) == value


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, '{"a":' * 100_000, "[1,]", b"\xff\xfe\xff"])
def test_what_is_no_json_is_a_value_error(text):
    with pytest.raises(ValueError, match=r"."):
        safe_json.loads(text)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_settings_that_an_editor_saved_are_taken(tmp_path, encoding):
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"model": "pocket", "form": {"prompt": "é"}}), encoding=encoding)
    assert history.read_settings(file)["form"] == {"prompt": "é"}
    file.write_bytes(b"\xff\xfe" + bytes([0, 0xD8]))
    with pytest.raises(FormError):
        history.read_settings(file)


def test_numbers_that_nobody_can_mean_are_none():
    assert [safe_json.number(value) for value in (3, 0.5, 10**400, math.nan, math.inf, "3", None)] == [
        3, 0.5, None, None, None, "3", None
    ]  # fmt: skip
