"""What a side gives up to stay inside a memory budget."""

import itertools
from dataclasses import replace

import pytest

from backends import registry
from backends.camera import parse_path
from backends.memory_plan import (
    MIB,
    BudgetTooSmall,
    bf16_bytes,
    block_bytes,
    codec_for,
    first_miss,
    fit_budget,
    held_bytes,
    most_bytes,
)
from backends.runtime.jobs import Side
from qvg.config import BF16, PRESETS
from qvg.policy import CachePolicy
from tests.soak.growth import MOST, exponent
from ui import text
from ui.form import budget_share
from ui.form.run_spec import as_moves, extend, parse
from ui.form.values import default_form

POCKET = registry.find("pocket")
WHOLE = POCKET.policy


def whole(preset: str = "BF16") -> Side:
    return Side(preset, codec_for(POCKET, preset), WHOLE)


@pytest.mark.parametrize("preset", ["BF16", "QVG INT2", "QVG-Pro INT2", "KIVI INT2"])
@pytest.mark.parametrize("mib", [12, 20, 34, 48, 80, 4000])
@pytest.mark.parametrize("when_full", ["drop", "stop"])
def test_a_side_stays_inside_and_gives_up_no_more_than_it_must(preset, mib, when_full):
    codec, blocks = codec_for(POCKET, preset), 20
    try:
        side = fit_budget(POCKET, whole(preset), blocks, mib * MIB, when_full)
    except BudgetTooSmall:
        assert held_bytes(POCKET, codec, replace(WHOLE, every=1), 1) > mib * MIB or when_full == "stop"
        return
    assert (side.name, side.codec) == (preset, codec)
    made = side.blocks(blocks)
    assert most_bytes(POCKET, codec, side.policy, made) <= mib * MIB
    if when_full == "stop":
        assert side.policy.window is None
        for every in (1, 2, 6):
            longer_ = most_bytes(POCKET, codec, replace(WHOLE, every=every), made + 1)
            assert side.ends_after is None or longer_ > mib * MIB
    elif side.policy.window is not None:
        wider = replace(side.policy, window=side.policy.window + 1)
        assert most_bytes(POCKET, codec, wider, blocks) > mib * MIB


def test_at_the_same_budget_bf16_forgets_and_two_bits_remember():
    bf16, qvg = (fit_budget(POCKET, whole(name), 20, 23 * MIB, "drop")
                 for name in ("BF16", "QVG INT2"))  # fmt: skip
    assert bf16.drops_from == 6
    assert qvg.drops_from is None
    assert qvg.policy.window is None
    assert text.fate(bf16.drops_from, None, POCKET.video_frames) == "drops frames from frame 25 on"
    stops = fit_budget(POCKET, whole(), 20, 23 * MIB, "stop")
    # Five blocks of 3.5 MiB, and the one being denoised.
    assert stops.ends_after == 5
    assert text.fate(None, stops.ends_after, POCKET.video_frames) == "out of memory at frame 21"


@pytest.mark.parametrize("every", [1, 4, 8])
@pytest.mark.parametrize("when_full", ["drop", "stop"])
def test_time_grows_with_the_blocks_and_hardly_faster(every, when_full):
    """In a budget of a tenth of what the whole history takes, which asks for many policies."""
    spec, side = registry.find("self_forcing"), Side("BF16", BF16, CachePolicy(every=every))

    def plan(blocks):
        fit_budget.cache_clear()
        fit_budget(spec, side, blocks, bf16_bytes(spec, blocks) // 10, when_full)

    assert exponent(plan, lambda blocks: blocks, (34, 108, 341, 1_078, 3_410)) <= MOST


@pytest.mark.parametrize("policy", [CachePolicy(every=1, window=3), CachePolicy(every=2, sink=1, window=4)])
def test_the_first_block_that_misses_history(policy):
    def misses(block: int) -> bool:
        return policy.layout(block).visible_blocks < block

    assert first_miss(policy, 20) == next(block for block in itertools.count() if misses(block))
    assert first_miss(policy, 3) is None
    assert first_miss(replace(policy, window=None), 20) is None


def test_single_blocks_are_encoded_in_pairs_only_where_a_video_gets_longer():
    """A codebook for one block is large: more fits with two blocks to each."""
    paired = fit_budget(
        POCKET, replace(whole("QVG-Pro INT2"), policy=CachePolicy(every=1)), 20, 27 * MIB, "stop"
    )
    single = fit_budget(POCKET, replace(whole(), policy=CachePolicy(every=1)), 20, 27 * MIB, "stop")
    assert (paired.policy.every, single.policy.every) == (2, 1)
    assert most_bytes(POCKET, paired.codec, CachePolicy(every=1), paired.blocks(20)) > 27 * MIB


def test_too_small_says_what_would_do():
    with pytest.raises(BudgetTooSmall, match=r"Pocket World needs at least 7 MiB"):
        fit_budget(POCKET, whole(), 20, 5 * MIB, "drop")
    with pytest.raises(BudgetTooSmall, match=r"not one block fits: Pocket World needs at least 7 MiB"):
        fit_budget(POCKET, whole(), 20, 5 * MIB, "stop")


def test_budgets_worth_a_click():
    assert budget_share.named("no limit", POCKET) == 0
    assert budget_share.named("24 GB card", POCKET) == (24_000_000_000 - POCKET.working_bytes) // MIB
    assert all(
        budget_share.named(name, replace(POCKET, working_bytes=1 << 40)) == 1 for name in budget_share.CARDS
    )


@pytest.mark.parametrize("model", [spec.id for spec in registry.specs()])
def test_a_budget_as_a_part_of_what_bf16_takes(model):
    spec = registry.find(model)
    blocks = min(20, spec.max_blocks)
    entire = bf16_bytes(spec, blocks)
    if spec.history.grows:
        assert entire == blocks * block_bytes(spec)
    assert budget_share.share_of(spec, blocks, 100) == 0
    assert budget_share.share_of(spec, blocks, 25) == pytest.approx(entire / 4 / MIB, abs=0.5)
    for share in (10, 50, 95):
        shown = budget_share.value(spec, blocks, budget_share.share_of(spec, blocks, share))
        assert shown["share"] == pytest.approx(share, abs=1)
    assert budget_share.value(spec, blocks, 0)["share"] == 100
    assert budget_share.value(spec, blocks, entire // MIB * 2)["share"] == 100


def test_a_model_that_always_looks_back_on_as_much_cannot_drop_any():
    longcat = registry.find("longcat")
    assert not longcat.history.grows
    needs = most_bytes(longcat, BF16, longcat.policy, 5)
    side = Side("BF16", BF16, longcat.policy)
    assert fit_budget(longcat, side, 5, needs, "drop") == side
    for when_full in ("drop", "stop"):
        with pytest.raises(BudgetTooSmall, match="what it looks back on does not fit"):
            fit_budget(longcat, side, 5, needs - 1, when_full)


def going_on(blocks, more, mib, when_full="drop", sides=("BF16", "QVG INT2")):
    asked = replace(
        default_form(POCKET), memory="compare", sides=sides, blocks=blocks, budget=mib, when_full=when_full
    )
    made = parse(asked, POCKET)
    return made, extend(made, blocks, more, [("w",)] * (4 * blocks - 1), parse_path("left-4"), None)


def test_a_longer_video_begins_as_it_did_and_goes_on_along_the_path():
    made, more = going_on(6, 2, 0)
    assert more.sides == made.sides
    assert (more.request.blocks, more.form.blocks) == (8, 8)
    assert more.request.moves == parse_path("w-23, left-4")
    again = extend(made, 4, 1, [("w",)] * 15, (), 99)
    assert again.request.reseeds == ((4, 99),)
    assert extend(again, 3, 1, [], (), None).request.reseeds == ()
    assert extend(again, 5, 1, [], (), 7).request.reseeds == ((4, 99), (5, 7))


def test_a_longer_video_stays_in_its_budget_or_is_refused():
    made, more = going_on(6, 20, 53)
    assert made.sides[0] == whole()
    assert more.sides[0].drops_from is not None
    assert more.sides[0].policy.every == WHOLE.every
    assert more.sides[1].drops_from is None
    _, stops = going_on(6, 20, 53, "stop")
    assert stops.sides[0].ends_after is not None
    with pytest.raises(BudgetTooSmall, match="BF16"):
        going_on(14, 20, 63)


def test_keys_become_moves_and_back():
    assert as_moves([("w",), ("w",), (), ("a", "left")]) == parse_path("w-2, still-1, a+left-1")
    assert set(budget_share.CARDS) & set(PRESETS) == set()
