"""Panels under the screen that show a run's measurements, one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from backends.runtime.hardware import DeviceInfo
from ui import text
from ui.form.run_spec import RunSpec
from ui.runs import compare_view, gauge_view
from ui.runs.side import Figures, SideResult


class Measured(NamedTuple):
    """Measurements of a run. `run_spec` is None for a past run that cannot be repeated.

    `pace`: video frames generated per second, of all sides together. `memory_bytes`: in use now, 0 for a past
    run.
    """

    run_spec: RunSpec | None
    figures: Sequence[Figures]  # one a side; empty if run.json has none
    fps: int
    device: DeviceInfo | None
    pace: float = 0.0
    memory_bytes: int = 0
    peak_bytes: int = 0
    ended: bool = False


def before(run_spec: RunSpec, device: DeviceInfo | None = None) -> Measured:
    """Returns the measurements of a run that has not begun."""
    fps = run_spec.spec.fps
    return Measured(run_spec, [SideResult(side, {}).figures(fps) for side in run_spec.sides], fps, device)


class Panel(NamedTuple):
    """Description of a panel. `component` is the name of its files in ui/components, `name` the id of its
    element.

    `value` returns the value that its template shows, also before the first block; None keeps the last value.
    """

    name: str
    component: str
    words: Mapping[str, str]
    value: Callable[[Measured], Mapping[str, Any] | None]


def _compare(run: Measured) -> compare_view.Table:
    return compare_view.table(run.figures, run.fps) if run.figures else compare_view.nothing()


def _gauge(run: Measured) -> dict[str, Any] | None:
    run_spec = run.run_spec
    if run_spec is None or not run.figures:
        return None
    budget = run_spec.form.budget or 0
    if any(side["latents"] for side in run.figures):
        view = gauge_view.measured(
            run_spec.spec,
            run_spec.sides,
            run.figures,
            run_spec.request.blocks,
            budget,
            run.device,
            fps=run.pace,
            memory_bytes=run.memory_bytes,
            peak_bytes=run.peak_bytes,
        )
    else:
        view = gauge_view.planned(run_spec.spec, run_spec.sides, run_spec.request.blocks, budget, run.device)
    return gauge_view.ended(view) if run.ended else view


PANELS = [
    Panel("compare", "compare_table", {"heading": text.COMPARISON}, _compare),
    Panel("gauge", "memory_gauge", text.GAUGE_WORDS, _gauge),
]


def values(run: Measured) -> dict[str, Mapping[str, Any]]:
    """Returns the values of all panels, by name; without those that keep their last value."""
    shown = {panel.name: panel.value(run) for panel in PANELS}
    return {name: value for name, value in shown.items() if value is not None}
