"""Configs, presets and the byte formula against published figures. No torch."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest

import qvg
from qvg.config import (
    BF16,
    KIVI,
    PRESETS,
    QUAROT,
    QVG,
    QVG_INT4,
    QVG_PLUS,
    QVG_PRO,
    RTN,
    RTN_INT4,
    CacheGeometry,
    CodecConfig,
    GroupwiseConfig,
    PRQConfig,
    RotatedConfig,
)

MIB = 1 << 20
SELF_FORCING_SPAN = (1, 12, 24 * 1560, 128)  # B, H, S, D
LONGCAT = (1, 32, 29_640, 128)


def ratio(config: CodecConfig, shape: tuple[int, int, int, int]) -> float:
    return BF16.stored_bytes(*shape) / config.stored_bytes(*shape)


def test_bytes_of_a_self_forcing_span() -> None:
    assert round(ratio(QVG, SELF_FORCING_SPAN), 3) == 6.966
    assert round(ratio(QVG_PRO, SELF_FORCING_SPAN), 2) == 5.02
    assert round(ratio(QVG_INT4, SELF_FORCING_SPAN), 2) == 3.72


def test_bytes_of_168_self_forcing_frames() -> None:
    tensors = 7 * 2  # spans of K and of V
    assert round(tensors * QVG.stored_bytes(*SELF_FORCING_SPAN) / MIB, 3) == 220.449
    assert tensors * BF16.stored_bytes(*SELF_FORCING_SPAN) / MIB == 1535.625


def test_bytes_of_a_longcat_layer() -> None:
    assert round(2 * QVG.stored_bytes(*LONGCAT) / MIB, 2) == 67.32
    assert 2 * BF16.stored_bytes(*LONGCAT) / MIB == 463.125
    assert round(ratio(QVG_PRO, LONGCAT), 2) == 4.84


def test_paper_ratios_of_the_larger_worldplay_model() -> None:
    shape = (1, 1, 32 * 1560, 128)
    names = ["BF16", "QVG INT2", "QVG-Pro INT2", "QVG INT4", "QVG-Pro INT4"]
    assert [round(ratio(PRESETS[name], shape), 2) for name in names] == [1.0, 7.05, 5.2, 3.75, 3.15]


def test_a_short_span_stores_one_centroid_a_token() -> None:
    tokens = 7
    codes, scales, labels, centroids = tokens * 32, tokens * 2, tokens, tokens * 128 * 2
    assert QVG.stored_bytes(1, 1, tokens, 128) == codes + scales + labels + centroids
    assert QVG.stored_bytes(2, 3, tokens, 128) == 6 * QVG.stored_bytes(1, 1, tokens, 128)


@pytest.mark.parametrize("shape", [SELF_FORCING_SPAN, LONGCAT, (2, 3, 7, 64)])
def test_the_four_level_code_takes_the_bytes_of_the_ternary_one(shape: tuple[int, int, int, int]) -> None:
    plain = replace(QVG_PLUS, channel_scales=False)
    assert replace(plain, code="int2") == QVG
    assert plain.stored_bytes(*shape) == QVG.stored_bytes(*shape)
    batch, heads, _, head_dim = shape
    assert QVG_PLUS.stored_bytes(*shape) == QVG.stored_bytes(*shape) + 2 * batch * heads * head_dim


def test_bytes_without_codebooks() -> None:
    tokens = 24 * 1560
    for config in (RTN, KIVI, QUAROT):
        assert config.stored_bytes(1, 12, tokens, 128) == 12 * (tokens * 32 + 2 * tokens * 2)  # 2.25 bits
    assert ratio(RTN_INT4, SELF_FORCING_SPAN) == 16 / 4.25
    # 63 full groups of 64 tokens and one of 8: keys take as many scales and zero points as for 64 of them.
    codes = 4040 * 32
    assert KIVI.stored_bytes(1, 1, 4040, 128, "k") == codes + 2 * 64 * 128
    assert KIVI.stored_bytes(1, 1, 4040, 128, "v") == codes + 2 * 4040 * 2
    assert RTN.stored_bytes(1, 1, 4040, 128, "k") == RTN.stored_bytes(1, 1, 4040, 128, "v")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clusters": 257}, "clusters=257"),
        ({"clusters": 0}, "clusters=0"),
        ({"stages": 0}, "stages=0"),
        ({"group": 0}, "group=0"),
        ({"code": "int3"}, "code='int3'"),
        ({"centroids": "fp4"}, "centroids='fp4'"),
        ({"iterations": -1}, "iterations=-1"),
    ],
)
def test_impossible_configs_are_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        PRQConfig(**options)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"group": 0}, "group=0"), ({"bits": 8}, "bits=8"), ({"key_axis": "heads"}, "key_axis='heads'")],
)
def test_impossible_groups_are_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        GroupwiseConfig(**options)  # pyright: ignore[reportArgumentType]


def test_heads_that_cannot_be_grouped_or_packed_are_refused() -> None:
    with pytest.raises(ValueError, match="head_dim=96 is not whole groups of 64"):
        QVG.stored_bytes(1, 1, 10, 96)
    with pytest.raises(ValueError, match="head_dim=6 at 2 bits"):
        PRQConfig(group=3).stored_bytes(1, 1, 10, 6)
    for tensor in ("k", "v"):
        with pytest.raises(ValueError, match="head_dim=96 is not whole groups of 64"):
            KIVI.stored_bytes(1, 1, 64, 96, tensor)
    with pytest.raises(ValueError, match="head_dim=96 is not a power of two"):
        RotatedConfig(inner=GroupwiseConfig(group=32)).stored_bytes(1, 1, 10, 96)


def test_geometry_is_checked() -> None:
    with pytest.raises(ValueError, match="heads=0"):
        CacheGeometry(layers=1, heads=0, head_dim=8, tokens_per_frame=1)


def test_configs_are_values() -> None:
    for config in PRESETS.values():
        assert pickle.loads(pickle.dumps(config)) == config
    assert replace(QVG, clusters=64) == PRQConfig(clusters=64)
    assert len(set(PRESETS.values())) == len(PRESETS) == 13
    with pytest.raises(FrozenInstanceError):
        QVG.code = "int4"


def test_torch_is_not_imported_for_configs_policies_and_stats() -> None:
    code = (
        "import sys, qvg, qvg.config, qvg.policy, qvg.stats\n"
        "qvg.QVG, qvg.PRESETS, qvg.CachePolicy, qvg.CacheStats, qvg.CacheGeometry\n"
        "assert 'torch' not in sys.modules\n"
        "qvg.KVCache\n"
        "assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=qvg.__path__[0] + "/..")


def test_every_public_name_resolves() -> None:
    assert set(qvg.__all__) <= set(dir(qvg))
    for name in qvg.__all__:
        assert getattr(qvg, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'QVG_MINI'"):
        _ = qvg.QVG_MINI
