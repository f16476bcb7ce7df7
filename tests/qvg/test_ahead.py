"""Launches that are noted instead of made, and kernels compiled for cards that are not there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from qvg.config import KIVI, PRESETS, QVG, QVG_MAX, CacheGeometry, CodecConfig, with_clusters
from qvg.launches import launches_of_blocks, launches_of_context, launches_of_rewriting, rope_like
from qvg.ops.ahead import noted
from qvg.ops.card import kind_of_card
from qvg.ops.finite import largest
from qvg.policy import CachePolicy

pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parents[2]
GEOMETRY = CacheGeometry(layers=3, heads=2, head_dim=128, tokens_per_frame=35)
CARD = kind_of_card((9, 0))


def names(launches: dict) -> set[str]:
    return {launch.name.removeprefix("qvg.ops.") for launch in launches}


@pytest.mark.parametrize("preset", PRESETS)
def test_noting_takes_no_memory_and_finds_what_a_preset_launches(preset: str) -> None:
    found = names(
        launches_of_blocks(
            GEOMETRY,
            with_clusters(PRESETS[preset], 64),
            CachePolicy(every=2),
            CARD,
            frames_per_block=3,
            rotate=rope_like(64, 35, 128, 22),
        )
    )
    assert "rotate._rotate" in found and "attention._merge" in found
    assert ("kmeans._assign" in found) == preset.startswith("QVG")
    assert ("seeding._kept" in found) == preset.startswith("QVG")  # the second span starts from the first
    assert ("hadamard._hadamard" in found) == preset.startswith("QuaRot")


def test_spans_that_grow_launch_what_they_need() -> None:
    policy = CachePolicy(every=3, grows=True, fine=True)
    launches = launches_of_blocks(
        GEOMETRY,
        with_clusters(QVG_MAX, 64),
        policy,
        CARD,
        frames_per_block=3,
        rotate=rope_like(64, 35, 128, 22),
    )
    found = names(launches)
    assert {"seeding._near", "seeding._kept", "residual._refine", "residual._energy"} <= found


@pytest.mark.parametrize("codec", [QVG, QVG_MAX, KIVI], ids=str)
def test_every_way_to_use_a_cache_can_be_noted(codec: CodecConfig) -> None:
    policy = CachePolicy(every=1, device_bytes=0, attention_bits=8)
    context = names(launches_of_context(GEOMETRY, codec, policy, CARD, frames=5, new_frames=3, branches=2))
    again = names(launches_of_rewriting(GEOMETRY, codec, policy, CARD, frames_per_block=2, blocks=3))
    assert "eight_bit._attend" in context
    assert {"finite._largest"} <= context & again


def test_nothing_is_noted_or_launched_outside() -> None:
    x = torch.empty(1, 2, 8, 64, device="meta")
    with noted(CARD) as launches:
        largest(x)
    assert len(launches) == 1
    assert largest(x).device.type == "meta"  # plain torch's shapes
    assert len(launches) == 1


# A launch as on a card, with a driver that loads and runs nothing: what matters is what Triton compiles.
LAUNCH_AND_COMPILE = """
import json, os, sys
from types import SimpleNamespace
import torch
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver
from qvg.ops.ahead import compile_for, memory_of, note, resources_of
from qvg.ops import triton as ours
from qvg.ops.eight_bit.triton import attention
from qvg.ops.finite.triton import largest
from qvg.ops.rotate.triton import rotate
from qvg.rope import grid_rope

capability = (12, 0)
ran = []

class Driver:
    utils = SimpleNamespace(
        get_device_properties=lambda device: {"max_shared_mem": 101376},
        load_binary=lambda name, *rest: (1, 1, 32, 0, 1024),
        unload_module=lambda module: None,
    )
    launcher_cls = staticmethod(lambda src, metadata: lambda *arguments: ran.append(metadata.hash))
    get_current_device = staticmethod(lambda: 0)
    get_current_stream = staticmethod(lambda device: 0)
    get_current_target = staticmethod(lambda: GPUTarget("cuda", 120, 32))

def work():
    x = torch.randn(1, 2, 37, 64, dtype=torch.bfloat16)
    largest(x)
    largest(x.flatten()[1:1025].view(1, 1, 16, 64))  # begins beside a multiple of 16 bytes
    rotate(x[:, :, :35], grid_rope(8, 5, 7, (12, 10, 10)))
    attention(x.to(torch.float8_e4m3fn), torch.ones(1, 2, 37), x, x)

def entries():
    return set(os.listdir(os.environ["TRITON_CACHE_DIR"]))

from qvg.ops.ahead import notebook
launches = {}
token = notebook.set(launches)
work()
notebook.reset(token)
compiled = [compile_for(launch, capability) for launch in launches]
before = entries()
driver.set_active(Driver())
work()
print(json.dumps({
    "ahead": [each.key for each in compiled],
    "launched": ran,
    "more": sorted(entries() - before),
    "shared": [each.shared_bytes for each in compiled],
    "registers": [resources_of(each.cubin).registers for each in compiled],
}))
"""


def without_interpreter(code: str, cache: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **{name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
        "TRITON_CACHE_DIR": str(cache),
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
    }
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_a_launch_finds_what_was_compiled_ahead(tmp_path: Path) -> None:
    ran = without_interpreter(LAUNCH_AND_COMPILE, tmp_path)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["ahead"] == found["launched"]
    assert len(set(found["ahead"])) == 5  # aligned and not, rotation, and the two kernels of 8-bit attention
    assert found["more"] == []  # nothing was compiled again
    assert max(found["shared"]) > 0 and min(found["registers"]) > 0
