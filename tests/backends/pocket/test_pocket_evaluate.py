"""Codecs judged by Pocket World's own videos, in little."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from backends.pocket.evaluate import main
from backends.pocket.judge import cases, policy_name
from backends.pocket.spec import SPEC
from qvg import BF16, PRESETS, QVG, CachePolicy
from qvg.bench.__main__ import main as bench


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_codec_is_held_against_bf16(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "end-to-end.json"
    codecs = ["BF16", "QVG INT2", "QVG INT4"]
    some = ["--device", "cpu", "--scenes", "2", "--frames", "12", "--policy", "every=1", "--json", str(path)]
    main(["--codecs", *codecs, *some])
    printed = capsys.readouterr().out
    result = json.loads(path.read_text())
    assert json.loads(printed.splitlines()[-1]) == result
    exact, int2, int4 = result["rows"]
    assert [row["codec"] for row in result["rows"]] == codecs
    assert {row["policy"] for row in result["rows"]} == {"every=1"}
    for row in result["rows"]:
        assert list(row["psnr"]) == ["first frame given", "prompt only"]
        for windows in row["psnr"].values():
            # The first chunk reads nothing that was encoded.
            assert windows == {"first chunk": [100.0, 0.0]}
    assert exact["nmse_k"] == exact["nmse_v"] == 0 and exact["attention"] < 0.01 and exact["ratio"] == 1
    assert 0 < int4["nmse_k"] < int2["nmse_k"] < 0.2 and int4["attention"] < int2["attention"] < 0.5
    assert int2["ratio"] > int4["ratio"] > 2
    bench(["table", str(path)])
    assert "| QVG INT2 | every=1 |" in capsys.readouterr().out


def test_the_reference_is_not_compared_with_itself() -> None:
    policies = [SPEC.policy, CachePolicy(every=1, recent=1)]
    found = [(name, policy) for name, _, policy in cases({"BF16": BF16, "QVG INT2": QVG}, policies)]
    assert found == [("QVG INT2", policies[0]), ("BF16", policies[1]), ("QVG INT2", policies[1])]
    assert policy_name(policies[1]) == "every=1,recent=1"
    assert len(list(cases(PRESETS, [SPEC.policy]))) == len(PRESETS) - 1


def test_frames_are_whole_blocks() -> None:
    with pytest.raises(SystemExit, match="whole blocks of 4"):
        main(["--device", "cpu", "--codecs", "all", "--frames", "10"])
