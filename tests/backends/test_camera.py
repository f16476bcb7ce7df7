"""Camera paths: what is read, what is written, where a mistake is, and that keys follow what was drawn."""

import json
import math
from pathlib import Path

import pytest

from backends.camera import (
    MAX_PATH_LATENTS,
    CameraMove,
    PathError,
    each_latent,
    follow_drawing,
    follow_trajectory,
    format_moves,
    format_path,
    is_json,
    parse_moves,
    parse_path,
    parse_trajectory,
    trace_trajectory,
)

# Texts as people paste them, and what they are read as or words of the refusal; also for the page's script.
PASTED = json.loads((Path(__file__).parents[1] / "data" / "camera_paths.json").read_text(encoding="utf-8"))


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
        ("still", (CameraMove(),)),
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
        ("w-2,, jump-1", 2, 7, "jump"),
        ("\ufeff'w-2', \u200bjump-1", 2, 8, "jump"),
        ("w-2,   a--3", 2, 8, "a--3"),
        ("w-2, s-0.5", 2, 6, "s-0.5"),
        ("w-0", 1, 1, "at least 1"),
        ("w+-2", 1, 1, "not a key"),
        ("w+still-2", 1, 1, "still"),
        ("w-4000, s-97", 2, 9, "4,097"),
        ("w-99999999999999999999", 1, 1, "limit"),
        ("w ; s : d", 2, 5, "s : d"),
        ("w-2, " + "w" * 1_000_000, 2, 6, "1,000,000 characters long"),
        ("w-2, s-" + "9" * 1_000_000, 2, 6, "1,000,002 characters long"),
        ("x" * 4_000_001, 1, 1, "4,000,001 characters long; the limit is 4,000,000"),
    ],
)
def test_says_where_the_mistake_is(text, segment, column, words):
    with pytest.raises(PathError) as caught:
        parse_path(text)
    assert (caught.value.segment, caught.value.column) == (segment, column)
    assert words in str(caught.value)
    assert f"move {segment} (character {column})" in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("row", PASTED, ids=[row["name"] for row in PASTED])
def test_text_is_read_as_pasted(row):
    if "path" in row:
        assert format_path(parse_path(row["text"])) == row["path"]
        return
    with pytest.raises(PathError) as caught:
        parse_path(row["text"])
    assert row["refused"] in str(caught.value)
    assert len(str(caught.value)) < 250


def test_as_many_moves_as_latents():
    assert len(parse_path("w," * MAX_PATH_LATENTS)) == MAX_PATH_LATENTS
    with pytest.raises(PathError, match="4,097 latents long here"):
        parse_path("w," * (MAX_PATH_LATENTS + 1))


@pytest.mark.parametrize("around", ["{}", "\ufeff{}", "```json\n{}\n```", "`{}`", " \u3000{}\u00a0\r\n"])
def test_json_is_found_in_what_is_around_it(around):
    moves = parse_path("w-3, right-2")
    for text in (
        format_moves(moves),
        trace_trajectory(moves),
        json.dumps(json.loads(format_moves(moves)), indent=4),
    ):
        assert is_json(around.format(text))
        assert parse_path(around.format(text)) == moves
    assert not is_json(around.format("w-3, right-2"))


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


@pytest.mark.parametrize(
    ("keys", "latents"), [(("fly",), 1), (("w",), 0), ((), -1), (("w", "w"), 1), (("w",) * 100_000, 4096)]
)
def test_a_move_is_checked_when_made(keys, latents):
    with pytest.raises(ValueError, match=r"unknown camera key|at least 1 latent|key once|at most 8 keys"):
        CameraMove(keys, latents)


@pytest.mark.parametrize("text", ["", "w-8", "w+right-4, still-2, a-1, down+left-3"])
def test_moves_as_json_are_read_back(text):
    moves = parse_path(text)
    assert parse_moves(format_moves(moves)) == moves
    assert parse_path(format_moves(moves)) == moves


@pytest.mark.parametrize(
    ("text", "segment", "words"),
    [
        ("[", 1, "not JSON"),
        ("[" * 100_000, 1, "nested"),
        ("[3]", 1, "a move is"),
        ('[{"keys": ["w"], "n": 2}, {"keys": "w", "n": 2}]', 2, "a move is"),
        ('[{"keys": ["w"], "n": 2}, {"keys": ["fly"], "n": 2}]', 2, "unknown camera key 'fly'"),
        ('[{"keys": ["w"], "n": 0}]', 1, "at least 1"),
        ('[{"keys": ["w"], "n": 4000}, {"keys": ["s"], "n": 97}]', 2, "4,097"),
        (
            '[{"keys": ["' + "w" * 1_000_000 + '"], "n": 1}]',
            1,
            "unknown camera key 'wwwwwwwwwwwwwwwwwwwwwwww…'",
        ),
        ('[{"keys": [' + '"w", ' * 100_000 + '"w"], "n": 4096}]', 1, "at most 8 keys, not 100,001"),
        ('[{"keys": ["w"], "n": ' + "9" * 100_000 + "}]", 1, "a move is"),
        ('[{"keys": ["w"], "n": 1}' + ', {"keys": ["s"], "n": 1}' * 4096 + "]", 4097, "4,097"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_says_which_move_of_json_is_wrong(text, segment, words):
    with pytest.raises(PathError, match=words) as caught:
        parse_path(text)
    assert caught.value.segment == segment
    assert len(str(caught.value)) < 200


PATHS = ["w-4", "w-3, right-1, d-4", "w+right-9, still-2, up-5, s+left-12, a+down-7", "left-120"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("metres", "degrees"), [(0.08, 3.0), (0.12, 2.5)])
def test_keys_follow_the_trajectory_they_made_exactly(path, metres, degrees):
    moves = parse_path(path)
    frames = parse_trajectory(trace_trajectory(moves, metres, degrees))
    assert len(frames) == 1 + sum(move.latents for move in moves)
    followed = follow_trajectory(frames, metres, degrees)
    # Keys of one latent come in an order of their own.
    assert [set(keys) for keys in each_latent(followed)] == [set(keys) for keys in each_latent(moves)]


def test_a_trajectory_in_the_text_is_followed():
    assert parse_path(" " + trace_trajectory(parse_path("w-3, right-2"))) == parse_path("w-3, right-2")


def test_a_trajectory_says_where_cameras_stand_and_look():
    frames = parse_trajectory(trace_trajectory(parse_path("right-30, w-10"), 0.1, 3.0))
    last = frames[-1].c2w
    # A quarter turn to the right, then a metre: along +x, x is right and z ahead at the start.
    assert [row[3] for row in last[:3]] == pytest.approx([1.0, 0.0, 0.0], abs=1e-9)
    assert [row[2] for row in last[:3]] == pytest.approx([1.0, 0.0, 0.0], abs=1e-9)
    assert frames[0].focal == pytest.approx((969.697 / 1920, 969.697 / 1080))


def test_a_trajectory_a_little_off_the_keys_is_followed_closely():
    cameras = json.loads(trace_trajectory(parse_path("w+right-40")))
    for number, camera in cameras.items():
        camera["extrinsic"][0][3] += 0.02 * math.sin(int(number))
    moves = follow_trajectory(parse_trajectory(json.dumps(cameras)))
    assert sum(move.latents for move in moves) == 40


def camera(**changes):
    identity = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]
    return {"extrinsic": identity, "K": [[900, 0, 960], [0, 900, 540], [0, 0, 1]], **changes}


FAR = [[1, 0, 0, 0], [0, 1, 0, 9], [0, 0, 1, 0], [0, 0, 0, 1]]
SKEWED = [[1, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("trajectory", "segment", "words"),
    [
        ({}, 1, "a trajectory is"),
        ({"0": camera(), "one": camera()}, 2, "'one' is not the number of a latent frame"),
        ({"0": camera(), "2": camera()}, 1, "not numbered 0 to 1"),
        ({"0": camera(), "1": {"K": camera()["K"]}}, 2, "extrinsic is not 4 rows of 4 numbers"),
        ({"0": camera(K=[[1, 2], [3]])}, 1, "K is not 3 rows of 3 numbers"),
        ({"0": camera(K=[[0, 0, 960], [0, 900, 540], [0, 0, 1]])}, 1, "must be positive"),
        ({"0": camera(extrinsic=[[10**400] * 4] * 4)}, 1, "extrinsic is not 4 rows of 4 numbers"),
        ({"0": camera(extrinsic=SKEWED)}, 1, "not a rotation and a shift"),
        ({"0": camera(extrinsic=[[math.inf] * 4] * 4)}, 1, "extrinsic is not 4 rows of 4 numbers"),
        ({"0": camera(extrinsic=[[1e308] * 4] * 4)}, 1, "not a rotation and a shift"),
        ({"0": camera(K="969")}, 1, "K is not 3 rows of 3 numbers"),
        ({"9" * 100_000: camera()}, 1, "'999999999999999999999999…' is not the number"),
        ({"0": camera(), "1": camera(extrinsic=FAR)}, 2, "9.00 m and 0 degrees from where keys can be"),
        ({str(number): 0 for number in range(MAX_PATH_LATENTS + 1)}, MAX_PATH_LATENTS + 1, "the limit is"),
    ],
)
def test_says_which_camera_of_a_trajectory_is_wrong(trajectory, segment, words):
    text = json.dumps(trajectory)
    with pytest.raises(PathError, match=words) as caught:
        parse_path(text)
    assert caught.value.segment == segment
    if segment == 2:
        assert text[caught.value.column - 1 :].startswith(json.dumps(list(trajectory)[1]))


def walked(moves, metres=0.08, degrees=3.0):
    """Where the camera is after every latent, and where it looks at the end."""
    heading, x, y = 0.0, 0.0, 0.0
    places = [(x, y)]
    for keys in each_latent(moves):
        heading += math.radians(degrees) * (("right" in keys) - ("left" in keys))
        x, y = (
            x + ("w" in keys) * metres * math.sin(heading),
            y + ("w" in keys) * metres * math.cos(heading),
        )
        places.append((x, y))
    return places, heading


@pytest.mark.parametrize(
    "line",
    [
        [(0, 0), (0, 3)],
        [(0, 0), (0, -1)],
        [(0, 0), (2, 2), (0, 4), (-2, 2), (0, 0)],
        [(1.5 * math.sin(t / 20) , 1.5 - 1.5 * math.cos(t / 20)) for t in range(126)],
        [(0, 0), (0.001, 0)],
    ],
    ids=["ahead", "back", "square", "circle", "nowhere"],
)  # fmt: skip
def test_keys_walk_along_a_drawing(line):
    places, _ = walked(follow_drawing(line))
    for right, ahead in line:
        assert min(math.dist(place, (right, ahead)) for place in places) <= 0.08 + 1e-9


def test_straight_ahead_takes_no_turn():
    assert follow_drawing([(0, 0), (0, 0.85)]) == parse_path("w-10")


def test_a_drawing_too_long_to_walk_is_refused():
    with pytest.raises(ValueError, match="more than 4,096 latents"):
        follow_drawing([(0, 0), (0, 500)])
