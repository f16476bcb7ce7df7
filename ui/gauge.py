"""What the KV cache holds, next to what BF16 would: numbers made here, shown by a template alone.

The browser fills the template as a JavaScript template string, which does not escape: only numbers and
words of our own go in.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import gradio as gr

from backends.base import BackendSpec
from qvg.config import CodecConfig
from qvg.policy import CachePolicy, cache_bytes
from qvg.stats import CacheStats
from ui import text

_GROUPS = (
    ("codes", "codes", ("codes",)),
    ("scales", "scales", ("scales", "zeros")),
    ("centroids", "centroids + labels", ("centroids", "labels")),
    ("recent", "recent, BF16", ("recent", "sink")),
    ("values", "BF16 history", ("values",)),
)
_FORECAST_POINTS = 120
_CURVE_WIDTH, _CURVE_HEIGHT = 320.0, 72.0


class Point(NamedTuple):
    """The cache after one block."""

    frames: int
    stored_bytes: int
    bf16_bytes: int


def forecast(spec: BackendSpec, codec: CodecConfig, policy: CachePolicy, blocks: int) -> list[Point]:
    """The cache after every block of a run to come, thinned out where it is long."""
    every = max(1, blocks // _FORECAST_POINTS)
    at = sorted({*range(every, blocks, every), blocks})
    latents = spec.latents_per_block
    return [
        Point(block * latents, *cache_bytes(spec.geometry, codec, policy, block, latents)) for block in at
    ]


def planned(spec: BackendSpec, codec: CodecConfig, policy: CachePolicy, blocks: int) -> dict[str, Any]:
    """Before a run: where it will end, and how it gets there."""
    points = forecast(spec, codec, policy, blocks)
    end = points[-1]
    return _view(
        title="KV cache at the end of this run",
        stored=end.stored_bytes,
        bf16=end.bf16_bytes,
        most=max(point.bf16_bytes for point in points),
        groups=[("planned", "planned", end.stored_bytes)],
        facts=[("latent frames", f"{end.frames:,}")],
        points=[Point(0, 0, 0), *points],
        last_frame=end.frames,
        live=False,
    )


def measured(
    stats: CacheStats,
    points: Sequence[Point],
    planned_bytes: int,
    planned_frames: int,
    fps: float,
    block_ms: float,
) -> dict[str, Any]:
    """During a run. `planned_*`: BF16 bytes and latent frames at its end. `fps`: video frames a second."""
    seen = (
        f"{stats.frames:,}"
        if stats.frames == stats.total_frames
        else f"{stats.frames:,} of {stats.total_frames:,}"
    )
    return _view(
        title="KV cache now",
        stored=stats.stored_bytes,
        bf16=stats.bf16_bytes,
        most=max(planned_bytes, stats.bf16_bytes, stats.stored_bytes),
        groups=split(stats.parts),
        facts=[
            ("latent frames in history", seen),
            ("video frames a second", f"{fps:.1f}"),
            ("a block", f"{block_ms:,.0f} ms"),
        ],
        points=[Point(0, 0, 0), *points],
        last_frame=max(planned_frames, stats.total_frames),
        live=True,
    )


def ended(view: dict[str, Any]) -> dict[str, Any]:
    """The last view of a run, whose cache has been released."""
    return {**view, "title": "KV cache at the end"}


def split(parts: dict[str, int]) -> list[tuple[str, str, int]]:
    """(colour, name, bytes) of a cache's parts, in the order of the bar; unknown parts keep their name."""
    known = {part for _, _, members in _GROUPS for part in members}
    groups = [
        (colour, name, sum(parts.get(part, 0) for part in members)) for colour, name, members in _GROUPS
    ]
    groups += [("other", name, count) for name, count in parts.items() if name not in known]
    return [group for group in groups if group[2]]


def curve(points: Sequence[Point], most: int, last_frame: int) -> tuple[str, str]:
    """Polyline points of what is held and of what BF16 would hold."""
    across, up = _CURVE_WIDTH / max(last_frame, 1), (_CURVE_HEIGHT - 4) / max(most, 1)

    def line(values: Sequence[tuple[int, int]]) -> str:
        return " ".join(
            f"{frame * across:.1f},{_CURVE_HEIGHT - 2 - count * up:.1f}" for frame, count in values
        )

    kept = points[:: max(1, len(points) // 240)]
    kept = [*kept, points[-1]] if points and kept[-1] is not points[-1] else kept
    return line([(p.frames, p.stored_bytes) for p in kept]), line([(p.frames, p.bf16_bytes) for p in kept])


def _view(
    *,
    title: str,
    stored: int,
    bf16: int,
    most: int,
    groups: Sequence[tuple[str, str, int]],
    facts: Sequence[tuple[str, str]],
    points: Sequence[Point],
    last_frame: int,
    live: bool,
) -> dict[str, Any]:
    ratio = bf16 / stored if stored else 1.0
    scale = 100 / max(most, 1)
    smaller = "smaller than BF16" if ratio > 1.005 else "full precision"
    held_line, bf16_line = curve(points, most, last_frame)
    return {
        "title": title,
        "live": live,
        "held": text.size(stored),
        "bf16": text.size(bf16),
        "ratio": text.times(ratio),
        "smaller": smaller,
        "stored_bytes": stored,
        "bf16_bytes": max(bf16, stored),
        "spoken": text.spoken_gauge(stored, bf16, ratio, smaller),
        "bf16_percent": round(bf16 * scale, 2),
        "groups": [
            {"colour": colour, "name": name, "size": text.size(count), "percent": round(count * scale, 2)}
            for colour, name, count in groups
        ],
        "facts": [{"name": name, "value": value} for name, value in facts],
        "held_line": held_line,
        "bf16_line": bf16_line,
        "last_frame": f"{last_frame:,}",
    }


_TEMPLATE = f"""
<section class="gauge" data-live="${{value.live}}" aria-label="KV cache gauge">
  <div class="figures">
    <div class="held"><h3>${{value.title}}</h3><strong>${{value.held}}</strong></div>
    <div class="ratio"><strong>${{value.ratio}}</strong><span>${{value.smaller}}</span></div>
    <div class="ghosted"><h3>BF16 would hold</h3><strong>${{value.bf16}}</strong></div>
  </div>
  <div class="bars" role="meter" aria-label="KV cache" aria-valuemin="0" aria-valuemax="${{value.bf16_bytes}}"
       aria-valuenow="${{value.stored_bytes}}" aria-valuetext="${{value.spoken}}">
    <div class="bar">${{value.groups.map(g => '<i class="part ' + g.colour + '" style="width:' + g.percent
      + '%" title="' + g.name + ': ' + g.size + '"></i>').join('')}}</div>
    <div class="bar"><i class="part ghost" style="width:${{value.bf16_percent}}%"></i></div>
  </div>
  <ul class="legend">${{value.groups.map(g => '<li><i class="' + g.colour + '"></i>' + g.name + ' <b>'
    + g.size + '</b></li>').join('')}}<li><i class="ghost"></i>BF16 would hold <b>${{value.bf16}}</b></li>
  </ul>
  <div class="below">
    <svg class="curve" viewBox="0 0 {_CURVE_WIDTH:.0f} {_CURVE_HEIGHT:.0f}" preserveAspectRatio="none"
         role="img" aria-label="Bytes over latent frames, up to frame ${{value.last_frame}}">
      <polyline class="ghost" points="${{value.bf16_line}}"/>
      <polyline class="held" points="${{value.held_line}}"/>
    </svg>
    <dl class="facts">${{value.facts.map(f => '<div><dt>' + f.name + '</dt><dd>' + f.value
      + '</dd></div>').join('')}}</dl>
  </div>
</section>
"""


def component(value: dict[str, Any]) -> gr.HTML:
    return gr.HTML(value, html_template=_TEMPLATE, js_on_load=None, elem_id="gauge", apply_default_css=False)
