"""The numbers of the gauge, and how they are written."""

from dataclasses import replace
from pathlib import Path

import pytest

from backends import registry
from backends.memory_plan import codec_for
from tests.ui.fake_worker import INFO, stats
from ui.components import base
from ui.form.run_spec import RunSpec, parse
from ui.form.values import default_form
from ui.format import about, size
from ui.runs import gauge_view
from ui.runs.revisit import Seen
from ui.runs.side import Block, SideResult, phases

POCKET = registry.find("pocket")


def run_spec(**changes) -> RunSpec:
    return parse(replace(default_form(POCKET), **changes), POCKET)


def measured(made: RunSpec, blocks: int, device=INFO) -> dict:
    figures = []
    for number, side in enumerate(made.sides):
        result, before = SideResult(side, {}), None
        for block in range(1, blocks + 1):
            after = stats(made.job(), made.job().sides[number], block)
            ms = phases(100.0, {"denoise": 60.0, "decode": 30.0}, after, before, 5.0)
            result.blocks.append(Block(b"", 4, after, ms, 0, Seen(), None))
            before = after
        figures.append(result.figures(POCKET.fps))
    return gauge_view.measured(
        POCKET, made.sides, figures, made.request.blocks, made.form.budget, device,
        fps=9.37, memory_bytes=200 << 20, peak_bytes=300 << 20,
    )  # fmt: skip


def test_a_quantized_run():
    view = measured(run_spec(), 12)
    (row,) = view["rows"]
    assert (row["held"], row["ratio"], row["smaller"]) == ("7.2 MiB", "5.8×", "smaller than BF16")
    assert row["spoken"] == "7.2 MiB held; BF16 would hold 42.0 MiB; 5.8× smaller than BF16"
    assert view["bf16"] == "42.0 MiB"
    facts = {fact["name"]: fact["value"] for fact in view["facts"]}
    assert facts["frames a second"] == "9.4"
    assert facts["memory of the process"] == "200.0 MiB"
    assert facts["peak memory"] == "300.0 MiB"
    assert row["seen"] == "48 latent frames"
    assert row["groups"][-1] == {
        "colour": "scratch", "name": "scratch", "size": "1.0 MiB",
        "percent": pytest.approx(1 / 42 * 100, abs=0.1),
    }  # fmt: skip


def test_what_waits_in_the_hosts_memory_is_said():
    made = run_spec(memory="compare", sides=("BF16", "QVG INT2"))
    sides = [SideResult(side, {}).figures(POCKET.fps) | {"host_bytes": 3 << 20} for side in made.sides]
    view = gauge_view.measured(POCKET, made.sides, sides, 12, 0, INFO, fps=1.0, memory_bytes=0, peak_bytes=0)
    assert {"name": "of the caches, in the host's memory", "value": "6.0 MiB"} in view["facts"]
    assert not any("host" in fact["name"] for fact in measured(run_spec(), 2)["facts"])


def test_how_much_video_fills_the_machine():
    facts = {fact["name"]: fact["value"] for fact in measured(run_spec(), 2)["facts"]}
    room = INFO.memory_bytes - POCKET.working_bytes
    frames = room // (42 * (1 << 20) // 48)
    assert facts["BF16 fills this machine after"].startswith(f"{frames // 4 * 4:,} frames (")
    assert "QVG INT2 fills this machine after" in facts
    assert not any("fills" in fact["name"] for fact in measured(run_spec(), 2, None)["facts"])
    on_card = measured(run_spec(), 2, replace(INFO, kind="cuda"))
    assert any(fact["name"] == "BF16 fills this card after" for fact in on_card["facts"])


def test_where_a_block_spends_its_time_adds_up():
    row = measured(run_spec(), 8)["rows"][0]
    assert row["ms"] == "105 ms"
    assert {phase["phase"]: phase["ms"] for phase in row["phases"]} == {
        "model": "57 ms", "read": "2 ms", "encode": "1 ms", "decode": "30 ms", "rest": "10 ms",
        "video": "5 ms",
    }  # fmt: skip
    assert sum(phase["percent"] for phase in row["phases"]) == pytest.approx(100, abs=0.1)


def test_a_generator_that_measures_nothing_still_adds_up():
    made = run_spec().job()
    parts = phases(100.0, {}, stats(made, made.sides[0], 1), None, 5.0)
    assert parts == {"model": 97.0, "read": 2.0, "encode": 1.0, "decode": 0.0, "rest": 0.0, "video": 5.0}


def test_a_bf16_run_is_as_large_as_it_says():
    view = measured(run_spec(memory="bf16"), 12)
    (row,) = view["rows"]
    assert (row["ratio"], row["smaller"]) == ("1.0×", "full precision")
    held = sum(group["percent"] for group in row["groups"] if group["colour"] != "scratch")
    assert held == pytest.approx(view["bf16_percent"], abs=0.1)


def test_two_bits_show_from_the_first_block():
    rows = [measured(run_spec(), blocks)["rows"][0] for blocks in range(1, 25)]
    ratios = [float(row["ratio"].rstrip("×")) for row in rows]
    assert ratios[0] > 2.5
    assert min(ratios[2:]) >= 4.0
    assert ratios[-1] >= 5.8


def test_sides_share_one_scale_and_windows_are_told():
    view = measured(run_spec(memory="compare", sides=("BF16", "QVG INT2"), blocks=20, budget=23), 20)
    bf16, qvg = view["rows"]
    assert [row["name"] for row in view["rows"]] == ["BF16", "QVG INT2"]
    assert bf16["seen"] == "20 of 80 latent frames"
    assert qvg["seen"] == "80 latent frames"
    assert view["bf16"] == "70.0 MiB"
    assert view["bf16_percent"] == 100
    assert len(view["curves"]) == 2
    (budget,) = [line for line in view["lines"] if line["kind"] == "budget"]
    assert budget["percent"] == pytest.approx(23 / 70 * 100, abs=0.1)
    shares = [sum(group["percent"] for group in row["groups"]) for row in view["rows"]]
    assert all(share < budget["percent"] for share in shares)
    # A machine's room is far off the chart of so small a model: it is said, not drawn.
    assert view["off"] == ["room on this device 7.25 GiB"]


def test_the_plan_is_what_the_run_ends_with():
    made = run_spec()
    plan = gauge_view.planned(POCKET, made.sides, 12, 0, None)
    end = measured(made, 12)
    for name in ("held", "ratio", "spoken"):
        assert plan["rows"][0][name] == end["rows"][0][name]
    assert plan["bf16"] == end["bf16"]
    assert plan["live"] is False


def test_parts_are_grouped_and_none_is_lost():
    parts = {"codes": 4, "scales": 2, "labels": 1, "centroids": 3, "recent": 5, "sink": 6, "surprise": 7,
             "zeros": 0}  # fmt: skip
    groups = gauge_view.split(parts, 9)
    assert groups == [
        ("codes", "codes", 4),
        ("scales", "scales", 2),
        ("centroids", "centroids + labels", 4),
        ("recent", "recent, BF16", 11),
        ("other", "surprise", 7),
        ("scratch", "scratch", 9),
    ]
    assert sum(count for _, _, count in groups) == sum(parts.values()) + 9


def test_before_the_first_block_nothing_divides_by_zero():
    assert gauge_view.polyline([], 0, 0) == ""
    assert gauge_view.polyline([(0, 0)], 0, 0) == "0.0,94.0"
    empty = SideResult(run_spec().sides[0], {}).figures(12)
    view = gauge_view.measured(
        POCKET, run_spec().sides, [empty], 12, 0, None, fps=0.0, memory_bytes=0, peak_bytes=0
    )
    assert view["rows"][0]["held"] == "0 KiB"


def test_a_long_curve_is_thinned_out_and_keeps_its_end():
    line = gauge_view.polyline([(index, 2 * index) for index in range(5_000)], 9_998, 4_999).split()
    assert len(line) < 300
    assert line[-1] == "320.0,2.0"


@pytest.mark.parametrize("blocks", [1, 2, 119, 120, 121, 341, 1000])
def test_a_forecast_ends_at_the_end(blocks):
    points = gauge_view.forecast(POCKET, codec_for(POCKET, "QVG INT2"), POCKET.policy, blocks)
    assert points[-1].frames == blocks * POCKET.latents_per_block
    assert len(points) <= 250


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, "0 KiB"),
        (840 << 10, "840 KiB"),
        (1 << 20, "1.0 MiB"),
        (1536 << 20, "1.50 GiB"),
        (31 << 30, "31.00 GiB"),
    ],
)
def test_sizes(count, words):
    assert size(count) == words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "about 1 s"), (42.4, "about 42 s"), (200, "about 3 min"), (9000, "about 2.5 h")],
)
def test_times_to_come(seconds, words):
    assert about(seconds) == words


def test_every_part_of_a_bar_has_a_color() -> None:
    css = (Path(base.__file__).parent / "memory_gauge.css").read_text(encoding="utf-8")
    names = [name for name, *_ in (*gauge_view._GROUPS, *gauge_view._PHASES)]
    for name in (*names, "other", "scratch", "planned"):
        assert f".gauge i.{name}" in css, name
