"""What the widgets of the form do to each other, without a browser."""

import re
from types import SimpleNamespace
from typing import Any

import gradio as gr
import pytest

from backends import registry
from backends.camera import parse_path, trace_trajectory
from tests.ui.fake_worker import INFO, FakeWorker
from tests.ui.page import Page
from ui.events.form import PLANNED
from ui.page import build
from ui.runs.manager import RunManager


@pytest.fixture
def worker() -> FakeWorker:
    return FakeWorker()


@pytest.fixture
def page(worker, tmp_path) -> Page:
    return Page(RunManager(worker, tmp_path))


def foreseen(page: Page, run_id: str = "", **changes: Any) -> dict[Any, Any]:
    return page.forms.foresee(run_id, "pocket", *page.values(PLANNED, **changes))


def test_the_path_is_explained_as_it_is_typed(page):
    good = page.forms.draw_path("pocket", "w-8, right-4")
    assert "2 moves, 12 latent frames" in good[page.ui.path_note]["said"]
    assert page.ui.path not in good
    bad = page.forms.draw_path("pocket", "w-8, rihgt-4")
    assert "move 2 (character 6)" in bad[page.ui.path_note]["said"]
    assert "<b>" in page.forms.draw_path("pocket", "<b>-2")[page.ui.path_note]["said"], "plain text"


def test_a_pasted_trajectory_becomes_moves(page):
    pocket = registry.find("pocket")
    text = trace_trajectory(parse_path("w-8, right-4"), pocket.metres_per_latent, pocket.degrees_per_latent)
    assert page.forms.draw_path("pocket", text)[page.ui.path] == "w-8, right-4"
    assert page.forms.draw_path("pocket", '[{"keys": ["a"], "n": 2}]')[page.ui.path] == "a-2"


def test_a_bad_picture_is_a_sentence(page, tmp_path):
    (tmp_path / "a.png").touch()
    assert "empty" in page.forms.look_at_picture(str(tmp_path / "a.png"))[page.ui.picture_note]["said"]
    assert page.forms.look_at_picture(None)[page.ui.picture_note]["said"] == ""


def test_the_plan_is_in_words_before_the_click(page, worker):
    worker.info = INFO
    said = foreseen(page, blocks=12)
    assert "12 blocks, 48 frames, 4.0 s at 12 fps" in said[page.ui.length_note]["said"]
    assert re.search(r"ends at .* instead of .* in BF16.* fits", said[page.ui.memory_note]["said"])
    assert said[page.ui.budget_note]["said"] == ""
    assert said[page.stage.shown["gauge"]]["live"] is False


def test_time_on_a_lent_device_is_told_before_the_click(tmp_path):
    class Lent(FakeWorker):
        def seconds(self, backend_id: str, blocks: int) -> int:
            assert backend_id == "pocket"
            return 10 * blocks

    lent = Page(RunManager(Lent(), tmp_path))
    assert "Asks the Space for 120 s of GPU time." in foreseen(lent, blocks=12)[lent.ui.memory_note]["said"]
    both = foreseen(
        lent, blocks=20, memory="compare", sides=("BF16", "QVG INT2"), budget=23, when_full="stop"
    )
    said = both[lent.ui.memory_note]["said"]
    assert "Asks the Space for 250 s of GPU time." in said, "BF16 ends after five blocks"


def test_a_comparison_is_planned_together(page, worker):
    sides = ["BF16", "QVG INT2"]
    assert "together need" in foreseen(page, memory="compare", sides=sides)[page.ui.memory_note]["said"]
    worker.info = INFO
    said = foreseen(page, memory="compare", sides=sides, budget=23, blocks=20)
    assert "of 8.00 GiB: fits" in said[page.ui.memory_note]["said"]
    assert "In 23.0 MiB: BF16: drops frames from frame 25 on." in said[page.ui.budget_note]["said"]
    assert len(said[page.stage.shown["gauge"]]["rows"]) == 2
    small = INFO.__class__(
        **{name: getattr(INFO, name) for name in INFO.__slots__} | {"memory_bytes": 1 << 28}
    )
    worker.info = small
    note = foreseen(page, memory="compare", sides=sides)[page.ui.memory_note]
    assert "does not fit" in note["said"]
    assert note["kind"] == "bad"


def test_a_budget_everyone_keeps_is_said(page):
    said = foreseen(page, budget=4000)[page.ui.budget_note]["said"]
    assert "Every side keeps its whole history in 3.91 GiB." in said


def test_the_plan_leaves_a_finished_gauge_alone(page):
    assert page.stage.shown["gauge"] not in foreseen(page, "a-run")


@pytest.mark.parametrize(
    "changes",
    [{"blocks": None}, {"window": 1, "recent": 1}, {"group": 5}, {"blocks": 500},
     {"memory": "compare", "sides": []},
     {"budget": 3, "memory": "bf16"}],
)  # fmt: skip
def test_a_plan_that_cannot_be_is_a_sentence(page, changes):
    said = foreseen(page, **changes)
    assert said[page.ui.length_note]["kind"] == "bad"
    assert said[page.ui.memory_note]["said"] == ""


def test_a_malformed_path_is_said_once(page):
    assert foreseen(page, path="fly-3")[page.ui.length_note]["said"] == ""


@pytest.mark.parametrize("model", registry.IDS)
def test_choosing_a_model_sets_the_form(page, model):
    spec = registry.find(model)
    changes = page.forms.choose_model(model, "QVG INT2")
    assert changes[page.ui.blocks].maximum == spec.max_blocks
    assert changes[page.ui.camera].visible == ("camera" in spec.inputs)
    assert changes[page.ui.every] == spec.policy.every
    assert changes[page.ui.clusters].value == spec.clusters
    assert spec.summary.split("'")[0] in changes[page.ui.about]["summary"]


def test_choosing_a_mode_explains_it_and_sets_its_policy(page, worker):
    first, second, _ = registry.find("worldplay").modes
    changes = page.forms.choose_model("worldplay", "QVG INT2")
    assert (changes[page.ui.mode].value, changes[page.ui.window]) == (first.id, first.policy.window)
    changes = page.forms.choose_mode("worldplay", "QVG INT2", second.id)
    assert changes[page.ui.mode].info == second.about
    assert changes[page.ui.window] == 0
    page.run(model="worldplay", mode=second.id, every=2, blocks=1, clusters=256)
    page.run(model="pocket", mode=None, blocks=1)
    assert [job.request.mode for job in worker.jobs] == [second.id, ""]
    assert not page.forms.choose_model("pocket", "QVG INT2")[page.ui.mode].visible


def test_choosing_a_preset_renames_the_switch(page):
    changes = page.forms.choose_preset("pocket", "QVG-Pro INT2")
    assert ("QVG-Pro INT2", "quantised") in changes[page.ui.memory].choices
    assert changes[page.ui.stages].value == 4
    assert changes[page.ui.group].value == 16
    assert page.forms.choose_preset("pocket", "KIVI INT2")[page.ui.stages].visible is False


def test_what_is_not_asked_is_not_shown(page):
    assert page.forms.choose_memory("compare")[page.ui.sides].visible is True
    assert page.forms.choose_memory("bf16")[page.ui.sides].visible is False
    assert page.forms.choose_memory("bf16")[page.ui.preset].visible is False
    assert page.forms.choose_memory("quantised")[page.ui.preset].visible is True
    assert page.forms.choose_budget(0)[page.ui.when_full].visible is False
    assert page.forms.choose_budget(30)[page.ui.when_full].visible is True


def test_budgets_by_a_click(page):
    values = page.values(PLANNED, blocks=20)
    event = SimpleNamespace(share=25)
    assert page.forms.set_budget(event, "pocket", *values)[page.ui.budget] == 18
    event = SimpleNamespace(name="24 GB card")
    assert page.forms.set_budget(event, "pocket", *values)[page.ui.budget] > 20_000
    event = SimpleNamespace(name="no limit")
    assert page.forms.set_budget(event, "pocket", *page.values(PLANNED, blocks=None))[page.ui.budget] == 0


def test_the_page_builds_without_starting_or_writing_anything(tmp_path):
    worker = FakeWorker()
    studio = build(worker, tmp_path / "outputs")
    assert worker.info is None
    assert not (tmp_path / "outputs").exists()
    labels = {
        block.label for block in studio.blocks.values() if isinstance(block, gr.components.FormComponent)
    }
    assert "" not in labels
