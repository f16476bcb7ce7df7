"""How hard it is tried, and what was counted.

Small in the ordinary suite. `QVG_SOAK=full python -m pytest -m "" tests/soak` tries it in earnest, and prints
the figures of the README.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from backends.runtime.worker import Worker
from tests.soak.managers import working

FULL = os.environ.get("QVG_SOAK") == "full"
Tell = Callable[..., None]

settings.register_profile(
    "soak",
    deadline=None,
    derandomize=not FULL,  # the ordinary suite tries the same every time
    database=None,
    suppress_health_check=list(HealthCheck),
)
settings.load_profile("soak")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.soak)


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    """Pocket World, with faults on order."""
    with working() as worker:
        yield worker


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Tell:
    """Notes figures of a test, to be printed at the end, whichever process it ran in."""

    def note(what: str, **figures: Any) -> None:
        record_property("soak", (what, figures))

    return note


def pytest_terminal_summary(terminalreporter: Any) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    told = [
        pair for report in reports for pair in getattr(report, "user_properties", ()) if pair[0] == "soak"
    ]
    # Of each test there are reports of its beginning, its course and its end.
    figures_of = list({json.dumps(figures): figures for _, figures in told}.values())
    if not figures_of:
        return
    terminalreporter.section("it holds up" if FULL else "it holds up, at a small size")
    for what, figures in figures_of:
        told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
        terminalreporter.line(f"{what}: {told}")
    if file := os.environ.get("QVG_SOAK_FIGURES"):
        Path(file).write_text(json.dumps(figures_of, indent=1), encoding="utf-8")
