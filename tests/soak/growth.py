"""How the time of a function grows with the length of its input, as an exponent measured within one run."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")

# What parsers have stumbled over, as (beginning, what is repeated, end).
RUNS = (
    ("", "w", ""), ("w", " ", "!"), ("w", " ", "-8"), ("w-8,", " ", ", d"), ("", " ", ""), ("w-", " ", "8"),
    ("", ",", ""), ("", "w,", ""), ("", "w-1,", "!"), ("", "still, ", ""), ("", ", ", "!"), ("", "\n", "w"),
    ("", ";\n", ""), ("", "+", ""), ("", "w+", ""), ("w", "+ ", "-1"), ("", "w +", "d-8"), ("", "-", ""),
    ("w-", "9", ""), ("w-", "0", ""), ("w-8.", "0", ""), ("w-8.", "0", "1"), ("", "w-8.0", ""),
    ("w-8", ".", ""), ("", "\u3000", "w"), ("w", "\xa0", "!"), ("", "\u200b", "w-8"), ("", "\ufeff", ""),
    ("", "\uff0c", ""), ("", "\uff19", ""), ("w\uff0d", "\uff18", ""), ("", "\U0001f600", ""),
    ("", "\ud800", ""), ("", "\u0130", ""), ("", "e\u0301\u0323", ""), ("", "'", ""), ("", '"', "w"),
    ("", "`", ""), ("", "`", "w"), ("```", "a", "w"), ("```", " ", "w"), ("", "'` ", "!"), ("", "[", ""),
    ("", "{", ""), ("", '{"0":', ""), ("", '[{"keys":', ""), ("[", "1,", "1]"), ("[", " ", ""),
    ("[", ",", "]"), ("[", ",]", ""), ("[", ", ", "]"), ("[", ", ", "!"), ("[1,", "\n", "]"),
    ("[", "[],", "[]]"), ("[", '{"keys":[],"n":1},', '{"keys":[],"n":1}]'),
    ('[{"keys":[', '"w",', '"w"],"n":4096}]'), ('[{"keys":["', "w", '"],"n":4}]'),
    ('[{"keys":["', "\\u0077", '"],"n":4}]'), ('[{"keys":["w"],"n":', "9", "}]"),
    ('[{"keys":["w"],"n":0.', "9", "}]"), ('[{"keys":["w"],"n":1e', "9", "}]"), ("{", '"0":{},', '"0":{}}'),
    ("{", '"\\u0030":{},', '"1":{}}'), ('{"', "9", '":{}}'),
    ('{"0":{"extrinsic":[', "[1],", '[1]],"K":0}}'), ('{"0":{"extrinsic":"', "1", '","K":0}}'),
    ('"', "\\ud83d", '"'), ('{"a":"', '\\"', '"}'), ("", "5: snow\n", ""), ("", "999: snow\n", ""),
    ("", "5:", ""), ("5", "\uff1a", ""), ("", "a red box ", ""), ("", "2 ", "boxes"), ("", "left ", ""),
    ("", "far,", ""), ("", "\xb2", ""), ("", "\x00", ""),
)  # fmt: skip
LENGTHS = (100, 316, 1_000, 3_162, 10_000, 31_623, 100_000)  # three decades, in halves
MOST = 1.7  # between linear and square, both with noise
_SMALLEST_S = 1e-3  # less says nothing of growth
_LONG_S = 2e-3  # more is not measured again
_HOPELESS = 2.5  # in half a decade: what follows would take minutes


def run_of(run: tuple[str, str, str]) -> Callable[[int], str]:
    """Returns what makes texts of a length of `run`, one of `RUNS`."""
    beginning, repeated, end = run
    return lambda length: beginning + repeated * max(1, length // len(repeated)) + end


def exponent(
    call: Callable[[T], object], make: Callable[[int], T], lengths: Sequence[int] = LENGTHS
) -> float:
    """Returns the steepest growth of `call(make(n))` over a decade of n: 1 is linear, 2 square, 0 too quick.

    The time is that of this thread's CPU, so that a busy machine makes little difference; what is steep is
    measured twice more, and the least steep of them counts.
    """
    steepest = math.inf
    for _ in range(3):
        steepest = min(steepest, _measured(call, make, lengths))
        if steepest <= MOST:
            break
    return steepest


def _measured(call: Callable[[T], object], make: Callable[[int], T], lengths: Sequence[int]) -> float:
    steepest = 0.0
    seconds: list[float] = []
    for last, length in enumerate(lengths):
        seconds.append(_seconds(call, make(length)))
        half, whole = (
            _growth(seconds, lengths, last - back, last) if last >= back else 0.0 for back in (1, 2)
        )
        if half > _HOPELESS:
            return half
        steepest = max(steepest, whole)
    return steepest


def _growth(seconds: Sequence[float], lengths: Sequence[int], first: int, last: int) -> float:
    if seconds[last] < _SMALLEST_S:
        return 0.0
    return math.log(seconds[last] / max(seconds[first], 1e-6)) / math.log(lengths[last] / lengths[first])


def _seconds(call: Callable[[T], object], given: T) -> float:
    """The least of two, of CPU; of one where that is long."""
    least = math.inf
    gc.collect()
    gc.disable()
    try:
        for _ in range(2):
            began = time.thread_time()
            call(given)
            least = min(least, time.thread_time() - began)
            if least > _LONG_S:
                break
    finally:
        gc.enable()
    return least
