"""The camera-path grammar: what it reads, what it writes, and where it says a mistake is."""

import pytest

from backends.camera import (
    MAX_PATH_LATENTS,
    STILL,
    CameraMove,
    PathError,
    each_latent,
    format_path,
    parse_path,
)


@pytest.mark.parametrize(
    ("text", "moves"),
    [
        ("", ()),
        ("   ", ()),
        ("w-8", (CameraMove(("w",), 8),)),
        ("w", (CameraMove(("w",), 1),)),
        ("w-3, right-1,d-4", (CameraMove(("w",), 3), CameraMove(("right",), 1), CameraMove(("d",), 4))),
        ("w+right-4", (CameraMove(("w", "right"), 4),)),
        (" W + Left - 2 ", (CameraMove(("w", "left"), 2),)),
        ("still-3", (CameraMove((), 3),)),
        ("still", (STILL,)),
        (f"w-{MAX_PATH_LATENTS}", (CameraMove(("w",), MAX_PATH_LATENTS),)),
    ],
)
def test_reads_moves(text, moves):
    assert parse_path(text) == moves


@pytest.mark.parametrize(
    ("text", "segment", "column", "words"),
    [
        ("jump-2", 1, 1, "jump"),
        ("w-2, jump-2", 2, 6, "jump"),
        ("w-2,, s-1", 2, 5, "between the commas"),
        ("w-2,", 2, 5, "between the commas"),
        ("w-2,   a--3", 2, 8, "a--3"),
        ("w-2, s-0.5", 2, 6, "s-0.5"),
        ("w-0", 1, 1, "at least 1"),
        ("w+-2", 1, 1, "not a key"),
        ("w+still-2", 1, 1, "still"),
        ("w-4000, s-97", 2, 9, "4,097"),
        ("w-99999999999999999999", 1, 1, "limit"),
        ("w ; s", 1, 1, "w ; s"),
    ],
)
def test_says_where_the_mistake_is(text, segment, column, words):
    with pytest.raises(PathError) as caught:
        parse_path(text)
    assert (caught.value.segment, caught.value.column) == (segment, column)
    assert words in str(caught.value)
    assert f"move {segment} (character {column})" in str(caught.value)


@pytest.mark.parametrize("text", ["", "w-8", "w+right-4, still-2, a-1, down+left-3"])
def test_writes_what_it_reads(text):
    assert format_path(parse_path(text)) == text


def test_each_latent_repeats_the_keys():
    assert list(each_latent(parse_path("w+right-2, still-1, a"))) == [
        ("w", "right"),
        ("w", "right"),
        (),
        ("a",),
    ]


@pytest.mark.parametrize(("keys", "latents"), [(("fly",), 1), (("w",), 0), ((), -1)])
def test_a_move_is_checked_when_made(keys, latents):
    with pytest.raises(ValueError, match=r"unknown camera key|at least 1 latent"):
        CameraMove(keys, latents)
