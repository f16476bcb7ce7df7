"""Against HY-WorldPlay itself, and Quant VideoGen's experiment with it, on tiny random weights: see
record.py.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from backends.worldplay import cameras, context, memory, model, poses, sampler
from backends.worldplay.memory import Memory
from qvg import BF16, CachePolicy
from qvg.config import PRQConfig
from qvg.rope import grid_rope
from tests.backends.worldplay import parity
from tests.backends.worldplay.tiny import COLUMNS, CONFIG, ROWS

TOLERANCE = 2e-5  # FP32 in another order of operations
ROUNDED = 2e-2  # BF16, relative


def test_poses_lenses_and_labels_of_typed_and_compound_paths() -> None:
    assert parity.poses() < 1e-12


@pytest.mark.parametrize("check", [parity.projections, parity.forward, parity.kept_keys, parity.denoised])
def test_fp32(check) -> None:
    assert check() < TOLERANCE


@pytest.mark.parametrize("check", [parity.forward, parity.denoised])
def test_bf16(check) -> None:
    assert check(torch.bfloat16) < ROUNDED


def test_retrieval() -> None:
    assert parity.overlaps() < 1e-6
    assert parity.choices() == 0


def test_a_rollout_of_six_chunks() -> None:
    found, expected = parity.rollout("rollout")
    assert parity.worst(found, expected) < TOLERANCE
    assert found.std() > 0.5


def test_a_rollout_from_words_alone() -> None:
    assert parity.worst(*parity.rollout("imagined")) < TOLERANCE


def test_frozen_is_quant_videogens_own_rollout() -> None:
    assert parity.worst(*parity.rollout("frozen", Memory(refresh="frozen", blocks=12))) < TOLERANCE


def test_what_the_policies_change() -> None:
    """Nothing up to the second chunk; then keeping is not encoding anew, nor one way of keeping another."""
    made = {
        refresh: parity.rollout("frozen", Memory(refresh=refresh, blocks=12))[0]
        for refresh in ("recompute", "incremental", "frozen")
    }
    for one, other in (("recompute", "frozen"), ("recompute", "incremental"), ("incremental", "frozen")):
        apart = [
            parity.relative(a, b) for a, b in zip(made[one].split(4, 2), made[other].split(4, 2), strict=True)
        ]
        assert max(apart[:2]) < 1e-6
        assert min(apart[2:]) > 1e-3


@pytest.mark.parametrize("refresh", ["recompute", "incremental", "frozen"])
def test_a_cache_that_encodes_changes_little(refresh: memory.Refresh) -> None:
    """Blocks that are not neighbours are read out of spans, BF16 or of two bits."""
    upstream = Memory(refresh=refresh, blocks=4, retrieved=1)
    whole, _ = parity.rollout("rollout", upstream)
    apart = {}
    for codec in (BF16, PRQConfig(clusters=16, group=24)):
        found, _ = parity.rollout("rollout", upstream, CachePolicy(every=2), codec)
        apart[type(codec)] = parity.relative(found, whole)
    assert 0 < apart[type(BF16)] < 3e-3
    assert 3e-3 < apart[PRQConfig] < 0.3


def mistakes() -> dict[str, tuple]:
    """(what to check, where, name, what stands there instead)"""

    def rotated_later(x: Tensor, rope, first_frame: int, matrices: Tensor):
        return cameras.rotate_and_project(x, rope, first_frame + (first_frame > 0), matrices)

    def changed(**fields):
        of = cameras.Projections.of.__func__

        def built(cls, *arguments):
            made = of(cls, *arguments)
            return cls(
                *(
                    fields.get(name, lambda each: each)(getattr(made, name))
                    for name in ("query", "key", "result")
                )
            )

        return classmethod(built)

    def labels_swapped(before: Tensor, after: Tensor) -> int:
        walking, turning = divmod(ACTION(before, after), 9)
        return 9 * turning + walking

    def nearest(w2c, current, history, blocks, retrieved, sight):
        return tuple(history[-blocks:])

    class Unheard(model.Conditions):
        def forward(self, t: Tensor, actions: Tensor):
            return super().forward(t, torch.zeros_like(actions))

    ACTION = poses.action
    prope = (parity.denoised, cameras.Projections, "of")
    return {
        "rotary base": (
            parity.denoised,
            parity,
            "rope",
            lambda: grid_rope(64, ROWS, COLUMNS, CONFIG.rotary_pairs, 5e3),
        ),
        "own frames one later": (parity.denoised, context, "rotate_and_project", rotated_later),
        "rows for columns": (
            parity.denoised,
            parity,
            "rope",
            lambda: grid_rope(64, COLUMNS, ROWS, CONFIG.rotary_pairs),
        ),
        "queries not transposed": (*prope, changed(query=lambda matrix: matrix.mT)),
        "keys to the picture": (*prope, changed(key=torch.linalg.inv)),
        "results left in the world": (*prope, changed(result=lambda matrix: torch.eye(4).expand_as(matrix))),
        "steps of another shift": (parity.whole_rollout, sampler, "LEVELS", (1000.0, 937.5, 833.3333, 625.0)),
        "clean frames called 0": (parity.whole_rollout, sampler, "CLEAN", 0.0),
        "walking for turning": (parity.poses, poses, "action", labels_swapped),
        "a step's length": (parity.poses, poses, "STEP", 0.1),
        "actions unheard": (parity.forward, model, "Conditions", Unheard),
        "a field of view on its side": (parity.overlaps, memory, "HALF_WIDTH", memory.HALF_HEIGHT),
        "the newest frames only": (parity.whole_rollout, sampler, "choose", nearest),
    }


@pytest.mark.parametrize("name", mistakes())
def test_a_mistake_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check, where, what, wrong = mistakes()[name]
    monkeypatch.setattr(where, what, wrong)
    assert check() > 50 * TOLERANCE
