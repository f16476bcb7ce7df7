"""The numbers of the gauge, and how they are written."""

import pytest

from backends import registry
from backends.base import Request
from backends.jobs import Job
from backends.plan import codec_for
from qvg.config import BF16
from tests.ui.fake_worker import stats
from ui import gauge, text

POCKET = registry.find("pocket")


def job(quantised: bool = True, blocks: int = 12) -> Job:
    codec = codec_for(POCKET, "QVG INT2") if quantised else BF16
    return Job("pocket", Request(blocks=blocks), codec, POCKET.policy)


def measured(of: Job, blocks: int) -> dict:
    points = [
        gauge.Point(4 * at, stats(of, at).stored_bytes, stats(of, at).bf16_bytes)
        for at in range(1, blocks + 1)
    ]
    planned = gauge.forecast(POCKET, of.codec, of.policy, of.request.blocks)[-1]
    return gauge.measured(stats(of, blocks), points, planned.bf16_bytes, planned.frames, 9.37, 412.6)


def test_a_quantised_run():
    view = measured(job(), 12)
    assert view["held"] == "10.1 MiB"
    assert view["bf16"] == "63.0 MiB"
    assert view["ratio"] == "6.2×"
    assert view["smaller"] == "smaller than BF16"
    assert view["spoken"] == "10.1 MiB held; BF16 would hold 63.0 MiB; 6.2× smaller than BF16"
    assert {fact["name"]: fact["value"] for fact in view["facts"]} == {
        "latent frames in history": "48",
        "video frames a second": "9.4",
        "a block": "413 ms",
    }
    assert view["bf16_percent"] == 100


def test_a_bf16_run_is_as_large_as_it_says():
    view = measured(job(quantised=False), 12)
    assert view["ratio"] == "1.0×"
    assert view["smaller"] == "full precision"
    assert sum(group["percent"] for group in view["groups"]) == pytest.approx(100, abs=0.1)


def test_bars_share_one_scale():
    view = measured(job(), 6)
    held = sum(group["percent"] for group in view["groups"])
    assert view["bf16_percent"] == pytest.approx(50, abs=0.1)
    assert held == pytest.approx(view["bf16_percent"] / (view["bf16_bytes"] / view["stored_bytes"]), abs=0.1)


def test_the_plan_is_what_the_run_ends_with():
    plan = gauge.planned(POCKET, codec_for(POCKET, "QVG INT2"), POCKET.policy, 12)
    end = measured(job(), 12)
    assert (plan["held"], plan["bf16"], plan["ratio"]) == (end["held"], end["bf16"], end["ratio"])
    assert plan["live"] is False


def test_parts_are_grouped_and_none_is_lost():
    parts = {
        "codes": 4,
        "scales": 2,
        "labels": 1,
        "centroids": 3,
        "recent": 5,
        "sink": 6,
        "surprise": 7,
        "zeros": 0,
    }
    groups = gauge.split(parts)
    assert groups == [
        ("codes", "codes", 4),
        ("scales", "scales", 2),
        ("centroids", "centroids + labels", 4),
        ("recent", "recent, BF16", 11),
        ("other", "surprise", 7),
    ]
    assert sum(count for _, _, count in groups) == sum(parts.values())


def test_before_the_first_block_nothing_divides_by_zero():
    assert gauge.curve([], 0, 0) == ("", "")
    assert gauge.curve([gauge.Point(0, 0, 0)], 0, 0)[0] == "0.0,70.0"


def test_a_long_curve_is_thinned_out_and_keeps_its_end():
    points = [gauge.Point(index, index, 2 * index) for index in range(5_000)]
    held, bf16 = gauge.curve(points, 9_998, 4_999)
    assert len(held.split()) < 300
    assert held.split()[-1].startswith("320.0,")
    assert bf16.split()[-1] == "320.0,2.0"


@pytest.mark.parametrize("blocks", [1, 2, 119, 120, 121, 341, 1000])
def test_a_forecast_ends_at_the_end(blocks):
    points = gauge.forecast(POCKET, codec_for(POCKET, "QVG INT2"), POCKET.policy, blocks)
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
    assert text.size(count) == words
