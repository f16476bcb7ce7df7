import pytest

from backends.pocket import vocabulary
from backends.pocket.vocabulary import COLOURS, KINDS, PLACES, TIMES, Thing, parse_prompt


def thing(name: str, side: str | None = None, reach: str | None = None) -> Thing:
    colour, kind = name.split()
    return Thing(
        None if colour == "any" else COLOURS.index(colour),
        None if kind == "any" else KINDS.index(kind),
        side,
        reach,
    )


@pytest.mark.parametrize(
    ("prompt", "things"),
    [
        ("a red box", [thing("red box")]),
        ("two blue pillars", [thing("blue pillar")] * 2),
        ("3 golden cubes", [thing("yellow box")] * 3),
        ("a ball and a tower", [thing("any ball"), thing("any pillar")]),
        ("something pink, and spheres", [thing("pink any"), thing("any ball")]),
        ("red and blue boxes", [thing("red box"), thing("blue box")]),
        ("a red box on the left", [thing("red box", "left")]),
        ("on the left a red box and a ball", [thing("red box", "left"), thing("any ball")]),
        ("a red box, far away", [thing("red box", None, "far")]),
        ("a red box far away on the left and a ball near on the right",
         [thing("red box", "left", "far"), thing("any ball", "right", "near")]),
        ("on the right a green cone and behind you three crates",
         [thing("green cone", "right"), *[thing("any box", "behind")] * 3]),
        ("red on the left, a box", [thing("red any", "left"), thing("any box")]),
    ],
)  # fmt: skip
def test_things(prompt: str, things: list[Thing]) -> None:
    parsed = parse_prompt(prompt)
    assert list(parsed.things) == things and not parsed.unknown


def test_the_prompt_of_the_readme() -> None:
    parsed = parse_prompt("a red box on the left, two blue pillars far away, snow, at dusk")
    assert parsed.note() == "Understood: red box (left), 2 x blue pillar (far), snow, dusk."
    assert (parsed.place, parsed.time) == (PLACES.index("snow"), TIMES.index("dusk"))


def test_the_first_place_and_time_count() -> None:
    parsed = parse_prompt("Snowy field at sunset, then night in the desert")
    assert (parsed.place, parsed.time) == (PLACES.index("snow"), TIMES.index("dusk"))


def test_every_word_of_the_vocabulary_is_understood() -> None:
    for group, known in vocabulary.VOCABULARY:
        for word in known:
            parsed = parse_prompt(f"{word} a ball")
            assert not parsed.unknown, (group, word)
            plain = parse_prompt("a ball")
            assert parsed != plain or group == "things"


def test_unknown_words_are_named_once_and_not_refused() -> None:
    parsed = parse_prompt("a dragon and a red box with a dragon")
    assert parsed.unknown == ("dragon",)
    assert parsed.things == (thing("red box"),)
    assert "dragon" in parsed.note() and "red box" in parsed.note()


@pytest.mark.parametrize(
    "text",
    [
        "a red box on the left，two blue pillars far。snow、dusk",
        "Ａ ＲＥＤ ＢＯＸ on the left；２ blue pillars far，snow，dusk",
        "“a red\u00a0box on the left, two blue\u2009pillars far”, \ufeffsnow, du\u200bsk.",
        "a red box — on the left، ٢ blue pillars far، snow، dusk",
    ],
)
def test_a_prompt_is_read_as_pasted(text: str) -> None:
    assert parse_prompt(text) == parse_prompt("a red box on the left, two blue pillars far, snow, dusk")


@pytest.mark.parametrize("number", ["²", "①", "½", "九", "0", "9" * 5_000])
def test_what_is_no_count_is_no_error(number: str) -> None:
    assert parse_prompt(f"{number} red boxes").things


def test_a_long_word_is_not_repeated_whole() -> None:
    note = parse_prompt("x" * 100_000).note()
    assert "xxx…" in note and len(note) < 200


def test_things_are_bounded() -> None:
    parsed = parse_prompt("9999999 red boxes " * 50)
    assert len(parsed.things) == vocabulary.MAX_THINGS and parsed.too_many
    assert f"The first {vocabulary.MAX_THINGS} things are used." in parsed.note()


def test_a_prompt_of_nothing_known_says_so() -> None:
    assert "No word" in parse_prompt("ein Drache").note()
    assert "left to chance" in parse_prompt("").note()
