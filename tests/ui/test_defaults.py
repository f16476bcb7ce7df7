"""How much of the history a run encodes that nobody has changed a setting of."""

from dataclasses import replace

import pytest

from backends import registry
from backends.base import BackendSpec
from backends.memory_plan import cache_after
from qvg.config import BF16Config
from qvg.policy import CachePolicy, Layout
from ui.form.examples import EXAMPLES
from ui.form.values import Form, default_form

# (model, mode) of every generator; "" where it has no modes.
WAYS = [(spec, mode) for spec in registry.specs() for mode in [each.id for each in spec.modes] or [""]]
RUNS = {
    **{f"{spec.id} {mode}".strip(): (spec, default_form(spec, mode=mode)) for spec, mode in WAYS},
    **{example.name: example.form() for example in EXAMPLES},
}
LEAST_ENCODED = 0.6  # of the history, at the end
LEAST_READ = 0.4  # of the blocks, that are made over encoded history


def layout_of(spec: BackendSpec, policy: CachePolicy, blocks: int) -> Layout:
    """Where the history is after `blocks` blocks; a history that is made again is one span."""
    committed = spec.committed(policy, blocks)
    return committed.policy.layout(committed.blocks)


def visible(layout: Layout) -> int:
    """Blocks of the spans that are read."""
    return layout.visible_blocks - len(layout.sink) - len(layout.recent)


@pytest.mark.parametrize(("spec", "form"), RUNS.values(), ids=RUNS)
def test_a_first_run_shows_the_method(spec: BackendSpec, form: Form):
    for side in form.named_sides(spec):
        blocks, policy = side.blocks(form.length(spec)), side.policy
        end = layout_of(spec, policy, blocks)
        assert visible(end) >= LEAST_ENCODED * end.visible_blocks
        assert not end.recent, "the last blocks still wait to be encoded"
        over_codes = [block for block in range(1, blocks) if layout_of(spec, policy, block).spans]
        assert len(over_codes) >= LEAST_READ * blocks
        if not isinstance(side.codec, BF16Config):
            stored, bf16 = cache_after(spec, side.codec, policy, blocks)
            assert bf16 > 3 * stored


@pytest.mark.parametrize(
    ("blocks", "recent"), [(7, 7), (8, 6), (10, 1)], ids=["nothing", "nothing that is read", "not the last"]
)
def test_a_first_run_that_hardly_encodes_is_noticed(blocks: int, recent: int):
    spec = registry.find("self_forcing")
    form = replace(default_form(spec), blocks=blocks, recent=recent)
    with pytest.raises(AssertionError):
        test_a_first_run_shows_the_method(spec, form)


@pytest.mark.parametrize("spec", registry.specs(), ids=lambda spec: spec.id)
def test_the_first_of_a_generators_modes_is_its_own_policy(spec: BackendSpec):
    assert not spec.modes or spec.modes[0].policy == spec.policy
