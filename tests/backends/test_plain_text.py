"""Text as people paste it: plain characters, numbers, excerpts."""

import pytest

from backends.plain_text import COLON, excerpt, plain, read_number


def test_ascii_stays_as_it_is():
    text = "".join(chr(code) for code in range(128) if chr(code) not in "\t\r\v\f")
    assert plain(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ｗ－８，　ｒｉｇｈｔ＋４；", "w-8, right+4;"),
        ("“a”‘b’„c“«d»「e」", '"a"\'b\'"c""d""e"'),
        ("a‐b‑c–d—e−f", "a-b-c-d-e-f"),
        ("a\u00a0b\u2009c\u3000d\te", "a b c d e"),
        ("a\u200bb\ufeffc\u00add", "abcd"),
        ("a\u2028b\rc", "a\nb\nc"),
        ("٣۴५๖", "3456"),
        ("é 红盒子 😀 \ud800", "é 红盒子 😀 \ud800"),
    ],
)
def test_signs_become_plain(text, expected):
    assert plain(text) == expected


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("8", 8), ("08", 8), ("8.0", 8), ("8.", 8), ("８．０", 8), (" '8' ", 8), ("-8", -8), ("−8", -8),
        ("+8", 8), ("\ufeff８", 8), ("٨", 8), ("8.5", 8.5), ("9" * 30, int("9" * 30)),
        ("", None), ("w", None), ("1e3", None), ("1_0", None), ("1,0", None), ("nan", None), ("²", None),
        ("8 8", None), ("--8", None), (".5", None), ("9" * 65, None), ("9" * 100_000, None),
        (" " * 100_000, None),
    ],
    ids=lambda value: str(value)[:12],
)  # fmt: skip
def test_a_number_is_read_as_typed(text, number):
    found = read_number(text)
    assert found == number
    assert type(found) is type(number)


def test_an_excerpt_is_short_and_quoted():
    assert excerpt("w-8") == "'w-8'"
    assert excerpt("x" * 1_000_000) == f"'{'x' * 24}…'"
    assert excerpt(3) == "'3'"
    assert len(excerpt(["\x00" * 1_000_000])) < 110


def test_every_colon_splits():
    assert [COLON.split(f"5{colon} snow", maxsplit=1) for colon in ":：﹕"] == [["5", " snow"]] * 3
