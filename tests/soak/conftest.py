"""How hard it is tried, and what was counted.

Small in the ordinary suite. `QVG_SOAK=full python -m pytest tests/soak` tries it in earnest, and prints
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

from backends.worker import Worker
from tests.soak.desks import working

FULL = os.environ.get("QVG_SOAK") == "full"
_figures: list[tuple[str, dict[str, Any]]] = []
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


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """Pocket World, with faults on order."""
    with working() as worker:
        yield worker


@pytest.fixture
def tell() -> Tell:
    """Notes figures of a test, to be printed at the end."""

    def note(what: str, **figures: Any) -> None:
        _figures.append((what, figures))

    return note


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not _figures:
        return
    terminalreporter.section("it holds up" if FULL else "it holds up, at a small size")
    for what, figures in _figures:
        told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in figures.items())
        terminalreporter.line(f"{what}: {told}")
    if file := os.environ.get("QVG_SOAK_FIGURES"):
        Path(file).write_text(json.dumps(_figures, indent=1), encoding="utf-8")
