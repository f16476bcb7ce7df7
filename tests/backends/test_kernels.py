"""Every kernel fits every card, compiled on the CPU as its launcher calls it there.

By default the largest tiles of each kernel; QVG_KERNELS=distinct or =all compiles the others too (minutes of
CPU on the first run). QVG_TRITON=DIR does so with the Triton in that folder, which `pip install --target DIR
triton==3.4.0` makes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from qvg.ops.card import SHARED_BYTES, kind_of_card

pytest.importorskip("triton")

ROOT = Path(__file__).resolve().parents[2]
SELECT = os.environ.get("QVG_KERNELS", "largest")
LITTLE = ("12.0", "8.9", "8.6")  # cards with 99 KB of shared memory a block
TARGETS = (*LITTLE, "8.0", "9.0", "10.0")
ROOM_LEFT = 0.85  # of a small card's shared memory: compilers differ


@pytest.mark.slow
def test_every_kernel_fits_every_card(tmp_path: Path) -> None:
    table = tmp_path / "kernels.json"
    path = os.pathsep.join([*filter(None, [os.environ.get("QVG_TRITON")]), str(ROOT)])
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ran = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "backends.kernels", "--select", SELECT),
            *("--target", *TARGETS, "--json", str(table)),
        ],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=7200,
    )
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout.rpartition("kernels,")[2] + ran.stderr
    rows = json.loads(table.read_text())
    tight = [
        row
        for row in rows
        if row["limit_bytes"] <= 101_376 and row["shared_bytes"] > ROOM_LEFT * row["limit_bytes"]
    ]
    assert tight == []
    for target in TARGETS:
        names = {row["kernel"] for row in rows if row["capability"] == [int(n) for n in target.split(".")]}
        # Of each part one, so that none is overlooked.
        nearest = "_nearest" if target in LITTLE else "_assign"
        assert {f"qvg.ops.kmeans.{nearest}", "qvg.ops.kmeans._sums", "qvg.ops.seeding._kept"} <= names
        assert ("qvg.ops.eight_bit._attend" in names) == (target in ("9.0", "10.0", "12.0"))
    everything = {row["kernel"] for row in rows}
    assert {"backends.pocket.render._kernel", "backends.worldplay.cameras_triton._turn"} <= everything


def test_a_card_that_nobody_has_heard_of_gets_small_tiles() -> None:
    assert kind_of_card((7, 5)).tiles(128) == kind_of_card((12, 0)).tiles(128)
    assert kind_of_card((8, 0)).tiles(128) == kind_of_card((9, 0)).tiles(128)
    for capability in SHARED_BYTES:
        assert kind_of_card(capability).tiles(64).nearest == kind_of_card(capability).tiles(128).nearest
