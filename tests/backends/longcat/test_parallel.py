"""Two processes on one video, over gloo on the CPU, against one by itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from backends.longcat import parallel
from qvg import QVG, QVG_PRO, RTN, build_codec
from qvg.config import CodecConfig
from tests.backends.longcat import samples

SCRIPT = Path(__file__).with_name("team.py")


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    folder = tmp_path_factory.mktemp("team")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), str(folder), "guidance", "heads"],
            env={**os.environ, **places, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate(timeout=180)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("way", ["guidance", "heads"])
def test_two_make_the_video_that_one_makes(found: list[dict], way: str) -> None:
    first, second = (rank[way] for rank in found)
    assert first["leads"] and not second["leads"]
    assert first["frames"] == second["frames"] == [[13, 32, 48, 3], [4, 32, 48, 3]]
    assert len(first["apart"]) == 2
    assert max(first["apart"]) < 1e-3
    assert max(first["pixels"]) <= 1


def test_history_is_split_by_heads(found: list[dict]) -> None:
    assert [rank["heads"]["heads"] for rank in found] == [1, 1]
    assert found[0]["heads"]["bytes"] == 0.5
    assert found[0]["guidance"]["bytes"] == 1.0


@pytest.mark.parametrize("codec", [QVG, QVG_PRO, RTN], ids=["QVG", "QVG-Pro", "RTN"])
def test_codes_of_some_heads_are_those_of_all_heads(codec: CodecConfig) -> None:
    """A process that has some of the heads encodes them to the same bits."""
    x = samples.values("heads", (1, 4, 700, 128)).bfloat16()
    encoder = build_codec(codec, "k")
    whole = encoder.decode(encoder.encode(x))
    for heads in (slice(0, 2), slice(2, 4)):
        assert torch.equal(encoder.decode(encoder.encode(x[:, heads].contiguous())), whole[:, heads])


def test_without_torchrun_one_works_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert parallel.join(True, torch.device("cpu")) is parallel.ALONE
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match="torchrun started 3"):
        parallel.join(True, torch.device("cpu"))


def test_what_cannot_be_shared_out_is_said() -> None:
    heads = parallel.Heads(None, 0, 2)
    with pytest.raises(ValueError, match="7 tokens cannot be shared by 2"):
        heads.take(torch.zeros(1, 7, 4))
    with pytest.raises(ValueError, match="3 heads cannot be shared by 2"):
        heads.around(lambda layer, q, k, v: q)(0, *(torch.zeros(1, 3, 4, 8) for _ in range(3)))
