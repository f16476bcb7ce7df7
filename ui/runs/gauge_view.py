"""Values of the memory gauge: the size of each side's KV cache, next to BF16."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from backends.base import BackendSpec
from backends.memory_plan import MIB, bf16_bytes, cache_after, room_for_cache
from backends.runtime.hardware import DeviceInfo
from backends.runtime.jobs import Side
from qvg.config import BF16, CodecConfig
from qvg.policy import CachePolicy
from ui import text
from ui.format import plural, size, times
from ui.runs.side import Figures, thinned

_GROUPS = (
    ("codes", "codes", ("codes",)),
    ("scales", "scales", ("scales", "zeros", "powers", "channels")),
    ("centroids", "centroids + labels", ("centroids", "labels")),
    ("recent", "recent, BF16", ("recent", "sink")),
    ("fine", "newest, finer", ("fine_codes", "fine_scales")),
    ("values", "BF16 history", ("values",)),
)
_PHASES = (
    ("model", "denoising"),
    ("read", "reading the cache, attention"),
    ("encode", "encoding the cache"),
    ("decode", "decoding frames"),
    ("rest", "other"),
    ("video", "video file"),
)
_FORECAST_POINTS = 120
_CURVE_WIDTH, _CURVE_HEIGHT = 320.0, 96.0  # as in memory_gauge.html
_NEAR = 1.6  # a line is drawn only if it is at most this many times the tallest curve


class Point(NamedTuple):
    """Size of the cache after one block."""

    frames: int  # latent
    stored_bytes: int
    bf16_bytes: int


class Row(NamedTuple):
    """One side of the gauge."""

    name: str
    points: Sequence[Point]
    groups: list[tuple[str, str, int]]  # color, name, bytes
    seen: str  # text: frames of history that attention can see
    phases: dict[str, float]


def forecast(spec: BackendSpec, codec: CodecConfig, policy: CachePolicy, blocks: int) -> list[Point]:
    """Returns the cache's size after the blocks of a planned run, at most about 120 points."""
    every = max(1, blocks // _FORECAST_POINTS)
    at = sorted({*range(every, blocks, every), blocks})
    return [Point(latents_after(spec, block), *cache_after(spec, codec, policy, block)) for block in at]


def latents_after(spec: BackendSpec, blocks: int) -> int:
    """Returns the latent frames of history after `blocks` blocks, without a window or a budget."""
    committed = spec.committed(spec.policy, blocks)
    return committed.blocks * committed.latents


def projection(spec: BackendSpec, blocks: int) -> list[Point]:
    """Returns the size of the whole history in BF16, without a window or a budget."""
    end = latents_after(spec, blocks)
    bytes_at_end = bf16_bytes(spec, blocks)
    return [Point(0, 0, 0), Point(end, bytes_at_end, bytes_at_end)]


def planned(
    spec: BackendSpec, sides: Sequence[Side], blocks: int, budget_mib: float, device: DeviceInfo | None
) -> dict[str, Any]:
    """Returns the gauge's value before a run of `blocks` blocks: the final size of each cache, and its
    growth."""
    rows = []
    for side in sides:
        points = forecast(spec, side.codec, side.policy, max(1, side.blocks(blocks)))
        end = points[-1].stored_bytes
        groups = [("planned", "planned", end)]
        rows.append(Row(side.name, [Point(0, 0, 0), *points], groups, "", {}))
    facts = [("latent frames", f"{latents_after(spec, blocks):,}"), *_lasts(spec, sides, device)]
    return _view(spec, text.GAUGE_PLANNED, rows, blocks, int(budget_mib) * MIB, device, facts, live=False)


def measured(
    spec: BackendSpec,
    sides: Sequence[Side],
    figures: Sequence[Figures],
    blocks: int,
    budget_mib: float,
    device: DeviceInfo | None,
    *,
    fps: float,
    memory_bytes: int,
    peak_bytes: int,
) -> dict[str, Any]:
    """Returns the gauge's value during a run of `blocks` blocks. `fps`: video frames a second, of all sides
    together.

    `memory_bytes` is the memory in use now, 0 after the run.
    """
    rows = []
    for side in figures:
        counts = zip(side["latents"], side["kv_bytes"], side["bf16_bytes"], strict=True)
        points = [Point(0, 0, 0), *(Point(*each) for each in counts)]
        groups = split(side["kv_parts"], side["scratch_bytes"])
        seen = text.seen(side["latents_seen"], points[-1].frames) if side["latents"] else ""
        rows.append(Row(side["codec"], points, groups, seen, side["ms"]))
    facts = [
        ("frames a second" if len(sides) == 1 else "frames a second, all sides", f"{fps:.1f}"),
        *_in_use(device, memory_bytes),
        ("peak memory", size(peak_bytes)),
        *_on_host(figures),
        ("beside the cache, as planned", size(spec.working_bytes)),
        *_lasts(spec, sides, device),
    ]
    return _view(spec, text.GAUGE_NOW, rows, blocks, int(budget_mib) * MIB, device, facts, live=True)


def ended(view: dict[str, Any]) -> dict[str, Any]:
    """Returns the last view of a run, retitled."""
    return {**view, "title": text.GAUGE_ENDED}


def split(parts: dict[str, int], scratch: int = 0) -> list[tuple[str, str, int]]:
    """Returns (color, name, bytes) of a cache's parts, in the order of the bar; unknown parts keep their
    name."""
    known = {part for _, _, members in _GROUPS for part in members}
    groups = [
        (colour, name, sum(parts.get(part, 0) for part in members)) for colour, name, members in _GROUPS
    ]
    groups += [("other", name, count) for name, count in parts.items() if name not in known]
    groups.append(("scratch", "scratch", scratch))
    return [group for group in groups if group[2]]


def room(spec: BackendSpec, device: DeviceInfo | None) -> int:
    """Returns the bytes that this device has for KV caches, beside weights and activations; 0 if unknown."""
    return max(0, room_for_cache(spec, device)) if device else 0


def _lasts(spec: BackendSpec, sides: Sequence[Side], device: DeviceInfo | None) -> list[tuple[str, str]]:
    """Returns how much video would fill this device alone, by codec, at the bytes per block of a long run."""
    available = room(spec, device)
    if not available or not spec.history.grows:
        return []
    facts, listed = [], set()
    for name, codec in [("BF16", BF16), *((side.name, side.codec) for side in sides)]:
        if name not in listed:
            listed.add(name)
            span = spec.policy.every
            each, _ = cache_after(spec, codec, CachePolicy(every=span), span)
            blocks = available * span // max(each, 1)
            facts.append(
                (
                    f"{name} fills {text.here(_on_cpu(device))} after",
                    text.video_length(spec.video_frames(blocks), spec.fps),
                )
            )
    return facts


def _in_use(device: DeviceInfo | None, memory_bytes: int) -> list[tuple[str, str]]:
    name = "memory of the process" if _on_cpu(device) else "memory on the GPU"
    return [(name, size(memory_bytes))] if memory_bytes else []


def _on_host(figures: Sequence[Figures]) -> list[tuple[str, str]]:
    offloaded = sum(side["host_bytes"] for side in figures)
    return [(text.ON_HOST, size(offloaded))] if offloaded else []


def _on_cpu(device: DeviceInfo | None) -> bool:
    return device is None or device.kind == "cpu"


def _view(
    spec: BackendSpec,
    title: str,
    rows: Sequence[Row],
    blocks: int,
    budget: int,
    device: DeviceInfo | None,
    facts: Sequence[tuple[str, str]],
    *,
    live: bool,
) -> dict[str, Any]:
    ghost = projection(spec, max(blocks, 1))
    last_frame = max(ghost[-1].frames, *(row.points[-1].frames for row in rows))
    largest = max(sum(count for _, _, count in row.groups) for row in rows)
    curves = max(point.stored_bytes for row in rows for point in row.points)
    tallest = max(ghost[-1].stored_bytes, curves, largest, 1)
    card = room(spec, device)
    lines = [
        (kind, name, count)
        for kind, name, count in (("budget", text.BUDGET_LINE, budget), ("card", text.CARD_LINE, card))
        if 0 < count <= _NEAR * tallest
    ]
    most = max([tallest, *(count for _, _, count in lines)])
    frames = max(row.points[-1].frames for row in rows)
    bf16 = _at(ghost, frames) if live else ghost[-1].stored_bytes
    percent = 100 / most

    def shown(row: Row) -> dict[str, Any]:
        end = row.points[-1]
        ratio = end.bf16_bytes / end.stored_bytes if end.stored_bytes else 1.0
        smaller = text.SMALLER if ratio > 1.005 else text.FULL_PRECISION
        total = sum(row.phases.values())
        return {
            "name": row.name,
            "held": size(end.stored_bytes),
            "ratio": times(ratio),
            "smaller": smaller,
            "stored_bytes": end.stored_bytes,
            "bf16_bytes": max(end.bf16_bytes, end.stored_bytes),
            "spoken": text.spoken_gauge(end.stored_bytes, end.bf16_bytes, ratio, smaller),
            "seen": row.seen,
            "groups": [
                {"colour": colour, "name": name, "size": size(count),
                 "percent": round(count * percent, 2)}
                for colour, name, count in row.groups
            ],
            "ms": f"{total:,.0f} ms",
            "phases": [
                {"phase": phase, "name": name, "ms": f"{row.phases[phase]:,.0f} ms",
                 "percent": round(100 * row.phases[phase] / max(total, 1e-9), 2)}
                for phase, name in _PHASES if row.phases.get(phase, 0.0) >= 0.5
            ],
        }  # fmt: skip

    def curve(points: Sequence[Point]) -> str:
        return polyline([(point.frames, point.stored_bytes) for point in points], most, last_frame)

    return {
        "title": title,
        "live": live,
        "rows": [shown(row) for row in rows],
        "bf16": size(bf16),
        "bf16_percent": round(bf16 * percent, 2),
        "lines": [
            {"kind": kind, "name": f"{name} {size(count)}", "percent": round(count * percent, 2),
             "y": round(_height(count, most), 1)}
            for kind, name, count in lines
        ],
        "off": [f"{name} {size(count)}" for name, count in
                ((text.BUDGET_LINE, budget), (text.CARD_LINE, card)) if count > _NEAR * tallest],
        "facts": [{"name": name, "value": value} for name, value in facts],
        "curves": [curve(row.points) for row in rows],
        "ghost": curve(ghost),
        "last_frame": plural(last_frame, "latent frame"),
        "top": size(most),
    }  # fmt: skip


def _at(points: Sequence[Point], frames: int) -> int:
    end = points[-1]
    return end.stored_bytes * frames // max(end.frames, 1)


def _height(count: float, most: float) -> float:
    return _CURVE_HEIGHT - 2 - count * (_CURVE_HEIGHT - 4) / max(most, 1)


def polyline(values: Sequence[tuple[float, float]], most: float, last: float) -> str:
    """Returns the points of an SVG polyline in the curve's box."""
    across = _CURVE_WIDTH / max(last, 1)
    return " ".join(f"{x * across:.1f},{_height(y, most):.1f}" for x, y in thinned(values, 240))
