"""Listing generators, and refusing those that cannot run here, without loading one."""

from typing import get_args

import pytest

from backends import registry
from backends.base import BackendUnavailable, InputKind
from qvg.config import PRESETS, PRQConfig

REAL = ("self_forcing", "worldplay", "longcat")


def test_lists_every_generator_under_its_own_id():
    assert tuple(spec.id for spec in registry.specs()) == registry.IDS
    assert tuple(entry.spec for entry in registry.entries()) == registry.specs()
    assert all(registry.find(spec.id) is spec for spec in registry.specs())


@pytest.mark.parametrize("spec", registry.specs(), ids=lambda spec: spec.id)
def test_specs_agree_with_themselves(spec):
    assert 1 <= spec.default_blocks <= spec.max_blocks
    assert spec.video_frames(0) == 0
    assert spec.video_frames(3) - spec.video_frames(2) == spec.frames_per_block
    assert spec.inputs <= set(get_args(InputKind))
    assert not spec.memory or sum(size for _, size in spec.memory) == spec.working_bytes
    assert spec.license
    assert spec.needs.endswith(".")
    assert spec.summary.endswith(".")


@pytest.mark.parametrize("spec", registry.specs(), ids=lambda spec: spec.id)
@pytest.mark.parametrize("codec", PRESETS.values(), ids=PRESETS)
def test_every_codec_suits_every_generators_heads(spec, codec):
    if isinstance(codec, PRQConfig):
        codec.check_head_dim(spec.geometry.head_dim)


@pytest.mark.parametrize(
    ("backend_id", "blocks", "frames"),
    [("self_forcing", 7, 81), ("worldplay", 12, 189), ("longcat", 11, 293)],
)
def test_video_lengths_are_upstreams(backend_id, blocks, frames):
    assert registry.find(backend_id).video_frames(blocks) == frames


def test_missing_is_a_sentence_or_none():
    for entry in registry.entries():
        assert entry.missing is None or entry.missing.endswith(".")


@pytest.mark.parametrize("backend_id", REAL)
def test_a_generator_without_weights_says_what_it_needs(backend_id):
    entry = next(entry for entry in registry.entries() if entry.spec.id == backend_id)
    if entry.missing is None:
        pytest.skip(f"{backend_id} is installed here")
    with pytest.raises(BackendUnavailable, match=r"GB of weights and a .* GPU"):
        registry.load(backend_id, None, print)


def test_an_unknown_id_lists_the_known_ones():
    with pytest.raises(registry.UnknownBackend) as caught:
        registry.find("sora")
    assert "'sora'" in str(caught.value)
    assert all(backend_id in str(caught.value) for backend_id in registry.IDS)
