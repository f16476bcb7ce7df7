"""The same seed and settings make the same frames, whatever the program has been through."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from backends.runtime.worker import Worker
from qvg.config import PRESETS
from tests.soak.conftest import FULL, Tell
from tests.soak.managers import BLOCK, frames_of, tab, worker_pids, working

ASKED = {"prompt": "a red box", "path": "right-12, left-12", "seed": 11, "blocks": 3, "every": 2}
ROUNDS = 20 if FULL else 1
CODECS = tuple(PRESETS) if FULL else ("BF16", "QVG INT2")


def test_the_same_seed_makes_the_same_frames(worker: Worker, tmp_path: Path, tell: Tell):
    page = tab(worker, tmp_path / "first")
    page.run(**ASKED)
    first = frames_of(page)
    for number in range(ROUNDS):
        # Other jobs in between: another seed, another codec, one that breaks, one that kills the process.
        page.run(**{**ASKED, "seed": number, "memory": "bf16", "blocks": 1})
        page.run(**{**ASKED, "prompt": f"{'kill' if number % 4 == 0 else 'raise'}=0"})
        page.run(**ASKED)
        assert np.array_equal(frames_of(page), first)
    if FULL:  # a process that was killed has been replaced already
        pids = worker_pids()
        with working() as another:
            page = tab(another, tmp_path / "second")
            page.run(**ASKED)
            assert set(worker_pids()) != set(pids)
            assert np.array_equal(frames_of(page), first)
    tell("same frames, other jobs and restarts in between", runs=ROUNDS + 1 + FULL, differing=0)


def test_codecs_agree_until_history_is_read(worker: Worker, tmp_path: Path, tell: Tell):
    page = tab(worker, tmp_path)
    made = {}
    for codec in CODECS:
        which = {"memory": "bf16"} if codec == "BF16" else {"memory": "quantised", "preset": codec}
        page.run(**ASKED, **which)
        assert page.status["kind"] == "done", page.status
        made[codec] = frames_of(page)
    # Every block is encoded when it is committed: the second is the first that reads one.
    prefix = BLOCK
    for codec, frames in made.items():
        assert np.array_equal(frames[:prefix], made["BF16"][:prefix]), codec
    assert not np.array_equal(made["QVG INT2"], made["BF16"]), "the rest is the codec's"
    tell("same frames, BF16 prefix of every codec", codecs=len(CODECS), differing=0)
