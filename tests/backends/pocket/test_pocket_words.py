import pytest

from backends.pocket import words
from backends.pocket.words import COLOURS, KINDS, THEMES, pair_feature, parse_prompt


@pytest.mark.parametrize(
    ("prompt", "counts"),
    [
        ("a red box", {pair_feature(COLOURS.index("red"), KINDS.index("box")): 1}),
        ("two blue pillars", {pair_feature(COLOURS.index("blue"), KINDS.index("pillar")): 2}),
        ("3 golden cubes", {pair_feature(COLOURS.index("yellow"), KINDS.index("box")): 3}),
        ("Snowy field at sunset", {words.theme_feature(THEMES.index("snow")): 1}),
        ("a ball and a tower", {words.kind_feature(0): 1, words.kind_feature(2): 1}),
        (
            "something pink, and spheres",
            {words.colour_feature(COLOURS.index("pink")): 1, words.kind_feature(0): 1},
        ),
        ("red and blue boxes", {words.colour_feature(0): 1, pair_feature(COLOURS.index("blue"), 1): 1}),
    ],
)
def test_counts(prompt: str, counts: dict[int, int]) -> None:
    features = parse_prompt(prompt).features
    assert {index: value for index, value in enumerate(features) if value} == counts


def test_features_do_not_overlap() -> None:
    used = [words.theme_feature(i) for i in range(len(THEMES))]
    used += [pair_feature(c, k) for c in range(len(COLOURS)) for k in range(len(KINDS))]
    used += [words.colour_feature(c) for c in range(len(COLOURS))] + [
        words.kind_feature(k) for k in range(len(KINDS))
    ]
    assert sorted(used) == list(range(words.FEATURES))


def test_unknown_words_are_named_once_and_not_refused() -> None:
    parsed = parse_prompt("a dragon and a red box with a dragon")
    assert parsed.unknown == ("dragon",)
    assert parsed.understood == ("red box",)
    assert "dragon" in parsed.note() and "red box" in parsed.note()


def test_counts_are_bounded() -> None:
    assert max(parse_prompt("9999999 red boxes " * 50).features) == words.MAX_COUNT


def test_a_prompt_of_nothing_known_says_so() -> None:
    assert "No word" in parse_prompt("ein Drache").note()
    assert "left to chance" in parse_prompt("").note()
