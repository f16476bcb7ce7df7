"""The benchmark's one command, at a tiny size: a row for every length, codec and way to remember."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from backends import bench
from backends.worldplay import spec
from qvg import QVG
from qvg.policy import cache_bytes

SMALLER = replace(
    spec.TINY, width=64, height=64, geometry=replace(spec.TINY.geometry, tokens_per_frame=4), clusters=4
)
COMMAND = ("worldplay", "--random-weights", "--tiny", "--device", "cpu", "--threads", "1")


@pytest.fixture(autouse=True)
def smaller(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(spec, "TINY", SMALLER)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


def test_blocks_are_timed_in_sight_of_so_many_latents(capsys: pytest.CaptureFixture[str]) -> None:
    bench.main(
        [*COMMAND, "--latents", "8", "20", "--codec", "QVG INT2", "--mode", "recompute", "incremental"]
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("HY-WorldPlay 5B, random weights, 64 x 64, on ")
    rows = json.loads(lines[-1])["rows"]
    assert [(row["case"], row["latents"]) for row in rows] == [
        (f"QVG INT2 {mode}", latents) for mode in ("recompute", "incremental") for latents in (8, 20)
    ]
    for row in rows:
        stages = row["context_ms"] + row["denoise_ms"] + row["decode_ms"] + row["encode_ms"]
        assert 0 < row["read_ms"] < row["context_ms"] + row["denoise_ms"]
        assert min(row["context_ms"], row["decode_ms"], row["peak_gib"]) > 0
        assert 0.5 * row["block_ms"] < stages < 1.1 * row["block_ms"]
    few = replace(QVG, clusters=4)
    mode = {mode.id: mode.policy for mode in spec.MODES}
    for row in rows:
        # Encoded anew, no more than 16 latents are ever held.
        blocks = min(row["latents"] // 4, 4) if "recompute" in row["case"] else row["latents"] // 4
        policy = mode[row["case"].split()[-1]]
        stored, dense = cache_bytes(SMALLER.geometry, few, policy, blocks, 4)
        assert row["kv_gib"] == pytest.approx(stored / 2**30, abs=1e-4)
        assert row["ratio"] == pytest.approx(dense / stored, abs=1e-4)


def test_a_whole_video_tells_what_encoding_anew_takes(capsys: pytest.CaptureFixture[str]) -> None:
    bench.main([*COMMAND, "--blocks", "3", "--codec", "BF16"])
    (row,) = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert row["frames"] == 13 + 16 + 16
    assert row["late_context_ms"] > 0


def test_a_mode_that_is_not_there_is_a_sentence() -> None:
    with pytest.raises(SystemExit, match="no mode 'fresh': choose recompute, incremental, frozen"):
        bench.main([*COMMAND, "--mode", "fresh"])
