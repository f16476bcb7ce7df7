"""What nobody in their right mind sends: values for every parser and every endpoint."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

# Numbers and words that have broken programs before.
NUMBERS: list[Any] = [
    0, -1, 1, 2, 0.5, -0.0, 2**31 - 1, 2**31, 2**63, 2**64, 10**30, 10**400, -(10**30), 1e308, -1e308, 1e-320,
    float("nan"), float("inf"), float("-inf"), True, False,
]  # fmt: skip
WORDS = [
    "", " ", "\x00", "\ud800", "\udfff\ud800", "é", "\u202e", "红盒子", "صندوق", "😀" * 50,
    "a" * 5_000, "9" * 5_000,
    "<script>alert(1)</script>", "${value.kind}", "{{7*7}}", "%s%n", "../../etc/passwd", "/etc/passwd",
    "file:///etc/passwd", "NaN", "null", "[]", "{}", "[" * 20_000, "٣", "²", "w-٣", "w-" + "9" * 5_000,
    "w-4096", "w-4097", "w-0", "w--1", "+", ",", "w,,w", '[{"keys": ["w"], "n": ' + "9" * 5_000 + "}]",
    '{"' + "9" * 5_000 + '": 1}', "2: x", "9" * 5_000 + ": x", "pocket", "BF16", "QVG INT2", "drop",
    "stop", "compare",
]  # fmt: skip

numbers = st.sampled_from(NUMBERS) | st.integers() | st.floats()
words = st.sampled_from(WORDS) | st.text(max_size=60) | st.text(st.characters(), max_size=20)
scalars = st.none() | st.booleans() | numbers | words
anything = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=8,
)

keys = st.sampled_from(
    ["w", "s", "a", "d", "left", "right", "up", "down", "still", "W", "q", "w+left", "w+w", ""]
)
moves_text = st.lists(
    st.tuples(keys, st.integers(-2, 5000).map(str) | st.just("")).map("-".join) | words, max_size=6
).map(", ".join)
moves_json = st.lists(
    st.fixed_dictionaries({"keys": st.lists(keys, max_size=3) | anything, "n": numbers}) | anything,
    max_size=5,
)
_unit = [[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
_cells = st.sampled_from([0.0, 1.0, -1.0, 0.08, 1e308, 960.0, float("nan")]) | numbers


def _changed(rows: list[list[float]], row: int, column: int, value: Any) -> list[list[Any]]:
    return [[value if (i, j) == (row, column) else v for j, v in enumerate(r)] for i, r in enumerate(rows)]


_extrinsic = st.builds(_changed, st.just(_unit), st.integers(0, 3), st.integers(0, 3), _cells) | anything
_intrinsic = (
    st.builds(
        _changed,
        st.just([[970.0, 0.0, 960.0], [0.0, 970.0, 540.0], [0.0, 0.0, 1.0]]),
        st.integers(0, 2),
        st.integers(0, 2),
        _cells,
    )
    | anything
)
trajectory = st.lists(
    st.fixed_dictionaries({"extrinsic": _extrinsic, "K": _intrinsic}) | anything, max_size=5
).map(lambda cameras: {str(number): camera for number, camera in enumerate(cameras)})
path_text = moves_text | words | (moves_json | trajectory | anything).map(json.dumps)
