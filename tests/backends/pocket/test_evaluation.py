"""Codecs judged by Pocket World's own videos, in little."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from backends.pocket.evaluation.codecs import cases
from backends.pocket.evaluation.evaluate import main
from backends.pocket.spec import SPEC
from qvg import BF16, PRESETS, QVG, CachePolicy
from qvg.bench.__main__ import main as bench


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_every_codec_is_held_against_bf16(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # One denoising step a block is enough to tell videos apart.
    monkeypatch.setattr("backends.pocket.sampler.LEVELS", (1.0,))
    monkeypatch.setattr("backends.pocket.evaluation.evaluate.OPENING", (1.0,))
    monkeypatch.setattr(
        "backends.pocket.evaluation.codecs.WINDOWS", {"first chunk": (0, 4), "4-8": (4, 8), "all": (0, 9)}
    )
    path = tmp_path / "end-to-end.json"
    codecs = ["BF16", "QVG INT2"]
    some = ["--device", "cpu", "--scenes", "1", "--frames", "8", "--policy", "every=1", "--json", str(path)]
    main(["--codecs", *codecs, *some])
    printed = capsys.readouterr().out
    result = json.loads(path.read_text())
    assert json.loads(printed.splitlines()[-1]) == result
    exact, int2 = result["rows"]
    assert [row["codec"] for row in result["rows"]] == codecs
    assert {row["policy"] for row in result["rows"]} == {"every=1,grows=1,fine=1"}
    for mode in ("first frame given", "prompt only"):
        # The first chunk reads nothing that was encoded; what is longer than the video is not measured.
        assert [list(row["psnr"][mode]) for row in result["rows"]] == [["first chunk", "4-8"]] * 2
        assert exact["psnr"][mode]["first chunk"] == int2["psnr"][mode]["first chunk"] == [100.0, 0.0]
        assert 20 < int2["psnr"][mode]["4-8"][0] < exact["psnr"][mode]["4-8"][0]
    assert exact["nmse_k"] == exact["nmse_v"] == 0 and exact["attention"] < 0.01 and exact["ratio"] == 1
    assert 0 < int2["nmse_k"] < 0.2 and 0.01 < int2["attention"] < 0.5
    assert int2["ratio"] > 2
    bench(["table", str(path)])
    assert "| QVG INT2 | every=1,grows=1,fine=1 |" in capsys.readouterr().out


def test_the_reference_is_not_compared_with_itself() -> None:
    policies = [SPEC.policy, CachePolicy(every=1, recent=1)]
    found = [(name, policy) for name, _, policy in cases({"BF16": BF16, "QVG INT2": QVG}, policies)]
    assert found == [("QVG INT2", policies[0]), ("BF16", policies[1]), ("QVG INT2", policies[1])]
    assert len(list(cases(PRESETS, [SPEC.policy]))) == len(PRESETS) - 1


def test_frames_are_whole_blocks() -> None:
    with pytest.raises(SystemExit, match="whole blocks of 4"):
        main(["--device", "cpu", "--codecs", "all", "--frames", "10"])
