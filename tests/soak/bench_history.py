"""How long the page looks for runs of the past: `python -m tests.soak.bench_history 5000`.

Writes so many records of 50 owners to a temporary folder, as the program writes them, and does with them what
the page's buttons do. Prints a table in Markdown.
"""

from __future__ import annotations

import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.ui.fake_worker import FakeWorker
from tests.ui.page import Page
from ui.runs.manager import RunManager

OWNERS, TIMES = 50, 15
_MS = 1e3


def fill(outputs: Path, runs: int, page: Page) -> None:
    """Copies the record of one real run under other names, in turns to `OWNERS` owners."""
    page.run(memory="compare", sides=["BF16", "QVG INT2"], blocks=8)
    record = json.loads((page.final().parent / "run.json").read_text())
    for number in range(runs):
        folder = outputs / f"2026-01-01-{number:06d}-000-run{number}"
        folder.mkdir()
        owner = page.manager.owner(f"visitor {number % OWNERS}")
        (folder / "run.json").write_text(json.dumps({**record, "id": f"run{number}", "owner": owner}))


def timed(do: Callable[[int], object]) -> str:
    """Returns the median and the longest of `TIMES` calls, which get their number."""
    seconds = []
    for number in range(TIMES):
        began = time.perf_counter()
        do(number)
        seconds.append(time.perf_counter() - began)
    return f"{_MS * statistics.median(seconds):.1f} ms | {_MS * max(seconds):.1f} ms"


def main(runs: int) -> None:
    logging.disable()
    with tempfile.TemporaryDirectory() as folder:
        outputs, worker = Path(folder), FakeWorker(block_seconds=0.0)
        before = Page(RunManager(worker, outputs))
        before.manager.shared = True
        fill(outputs, runs, before)
        manager = RunManager(worker, outputs)
        manager.shared = True
        began = time.perf_counter()
        manager.open()
        started = time.perf_counter() - began
        visitor, stranger = Page(manager, "visitor 7"), Page(manager, "a stranger")
        owner, none = (manager.owner(page.visitor) for page in (visitor, stranger))

        def mine(number: int) -> str:
            """One of the visitor's, the oldest first, as these are found last."""
            return f"run{7 + OWNERS * number}"

        def press(page: Page, action: str, number: int) -> None:
            page.press(page.runs.history, id=mine(number), action=action)

        print(f"{runs} runs of {OWNERS} owners; read once at the start, in {started:.2f} s\n")
        print("| | median | longest |\n| --- | --- | --- |")
        for name, do in {
            "list": lambda _: visitor.runs._lists(owner, ""),
            "list of a stranger": lambda _: stranger.runs._lists(none, ""),
            "a run, to export it or make it again": lambda number: manager.find_past(owner, mine(number)),
            "a stranger's, which is not there": lambda number: manager.find_past(none, mine(number)),
            "JSON export": lambda number: list(
                visitor.runs.export_json(visitor.request, visitor.visitor, mine(number))
            ),
            "recall": lambda number: press(visitor, "recall", number),
            "delete, and the list anew": lambda number: press(visitor, "delete", number),
        }.items():
            print(f"| {name} | {timed(do)} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000)
