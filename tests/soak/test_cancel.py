"""Generate and Stop, over and over, at moments nobody chose: everything is as it was before."""

from __future__ import annotations

import random
import threading
import time
from pathlib import Path

import pytest

from backends.runtime.worker import Worker
from tests.soak.conftest import FULL, Tell
from tests.soak.managers import QUICK, rss_mib, tab, until, worker_pids
from ui.runs import folder

CYCLES = 200 if FULL else 6
DRIFT_MIB = 64.0  # of a worker's 500: the allocator of a CPU gives back what it likes


def test_a_cancelled_run_leaves_nothing(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tell: Tell
):
    monkeypatch.setattr(folder.RunFolder.__init__, "__defaults__", (0.0,))
    monkeypatch.setattr(folder.RunFolder.new.__func__, "__defaults__", (0.0,))
    dice = random.Random(0)
    outputs = tmp_path / "outputs"
    latest, stopped, nothing, waiting = 0.0, 0, 0, 0
    page = tab(worker, outputs)
    page.run(prompt="a box", **QUICK)
    (pid,) = worker_pids()
    for cycle in range(CYCLES):
        if cycle == min(20, CYCLES // 2):
            baseline, own = rss_mib(pid), rss_mib()
        runs = [page.start(prompt="slow=1", **{**QUICK, "blocks": 40})]
        next(runs[0])
        first = page.manager.current("")
        if dice.random() < 0.5:  # one more, that waits behind it
            runs.append(page.start(prompt="slow=1", **{**QUICK, "blocks": 40}))
            next(runs[1])
            waiting += 1
        # Before it is handed over, while it denoises, encodes, decodes, between blocks.
        time.sleep(dice.choice([0.0, 0.01, dice.uniform(0, 2.0)]))
        mine = [*page.manager.waiting(""), first]
        pressed = time.monotonic()
        for record in mine:
            page.manager.stop(record)
        until(lambda mine=mine: all(record.ended for record in mine), "the runs have ended")
        latest = max(latest, time.monotonic() - pressed)
        for record in mine:
            stopped += record.presenter._results.get("stopped", False)
            nothing += not record.presenter.blocks
        assert page.manager.current("") is None and not page.manager.waiting("")
        assert worker_pids() == [pid], "one process, and the same"
    # All caches have been released by the end of every run: what Done says of it.
    page.run(prompt="a box", **QUICK)
    assert page.status["kind"] == "done"
    drift, own_drift = rss_mib(pid) - baseline, rss_mib() - own
    kept = [path for path in outputs.rglob("*") if path.is_file()]
    assert not [path for path in kept if path.name.startswith((".", "segment-"))]
    # A run that made nothing leaves no folder.
    assert len([path for path in outputs.iterdir() if path.is_dir()]) == CYCLES + waiting + 2 - nothing
    assert threading.active_count() < 40
    assert drift < DRIFT_MIB
    tell(
        "cancel and restart", cycles=CYCLES, stopped=stopped, of_them_waiting=waiting,
        slowest_stop=f"{latest:.2f} s", worker=f"{drift:+.1f} MiB", page=f"{own_drift:+.1f} MiB",
        orphans=0, temporary_files=0, stuck_places=0,
    )  # fmt: skip
