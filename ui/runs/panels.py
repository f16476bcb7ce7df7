"""The panels under the screen, one row each: what shows what was measured of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from backends.runtime.hardware import DeviceInfo
from ui import text
from ui.form.run_spec import RunSpec
from ui.runs import compare_view, gauge_view
from ui.runs.side import Figures, SideResult


class Measured(NamedTuple):
    """What is known of a run. `run_spec` is None where a run of the past cannot be made again.

    `pace`: video frames made a second, of all sides together. `memory_bytes`: in use now, 0 where the run is
    a past one.
    """

    run_spec: RunSpec | None
    figures: Sequence[Figures]  # one a side; empty where nothing is written down
    fps: int
    device: DeviceInfo | None
    pace: float = 0.0
    memory_bytes: int = 0
    peak_bytes: int = 0
    ended: bool = False


def before(run_spec: RunSpec, device: DeviceInfo | None = None) -> Measured:
    """Returns what is known of a run that has not begun."""
    fps = run_spec.spec.fps
    return Measured(run_spec, [SideResult(side, {}).figures(fps) for side in run_spec.sides], fps, device)


class Panel(NamedTuple):
    """`component` is the name of its files in ui/components, `name` the id of its element.

    `value` is what its template shows of a run, also before the first block; None where it stays as it is.
    """

    name: str
    component: str
    words: Mapping[str, str]
    value: Callable[[Measured], Mapping[str, Any] | None]


def _compare(run: Measured) -> compare_view.Table:
    return compare_view.table(run.figures, run.fps) if run.figures else compare_view.nothing()


def _gauge(run: Measured) -> dict[str, Any] | None:
    made = run.run_spec
    if made is None or not run.figures:
        return None
    budget = made.asked.budget or 0
    if any(side["latents"] for side in run.figures):
        view = gauge_view.measured(
            made.spec,
            made.sides,
            run.figures,
            made.request.blocks,
            budget,
            run.device,
            fps=run.pace,
            memory_bytes=run.memory_bytes,
            peak_bytes=run.peak_bytes,
        )
    else:
        view = gauge_view.planned(made.spec, made.sides, made.request.blocks, budget, run.device)
    return gauge_view.ended(view) if run.ended else view


PANELS = [
    Panel("compare", "compare_table", {"heading": text.COMPARISON}, _compare),
    Panel("gauge", "memory_gauge", text.GAUGE_WORDS, _gauge),
]


def values(run: Measured) -> dict[str, Mapping[str, Any]]:
    """Returns what every panel shows, by name; without those that stay as they are."""
    shown = {panel.name: panel.value(run) for panel in PANELS}
    return {name: value for name, value in shown.items() if value is not None}
