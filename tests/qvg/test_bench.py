"""The measurements, in little: every line of them, on a CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from qvg import selfcheck
from qvg.bench import cache, ops, table
from qvg.bench.__main__ import main
from qvg.bench.data import Stream
from qvg.bench.measure import alternating, timed, usual_path
from qvg.bench.settings import SETTINGS, SPANS, parse_policy, policy_name
from qvg.config import PRESETS, CacheGeometry
from qvg.policy import CachePolicy

CPU = torch.device("cpu")


def last_line(capsys: pytest.CaptureFixture[str]) -> dict:
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


def test_ops_prints_its_tables_and_one_object(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    some = ("BF16", "QVG INT2", "QVG-Plus INT2", "QVG-Max")
    monkeypatch.setattr(ops, "PRESETS", {name: PRESETS[name] for name in some})
    monkeypatch.setattr(ops, "LONG", 12)
    path = tmp_path / "deep" / "ops.json"
    main(["ops", "--device", "cpu", "--geometry", "self-forcing", "--seconds", "0", "--json", str(path)])
    printed = capsys.readouterr().out
    result = json.loads(printed.splitlines()[-1])
    assert result == json.loads(path.read_text())
    assert {"card", "torch", "triton", "date", "commit", "copy_gb_s"} <= result.keys()
    shape = result["shapes"]["self-forcing"]
    rows = {row["op"]: row for row in shape["kernels"]}
    assert {"decode", "decode and rotate K", "encode, 2 iterations, from the span before"} <= rows.keys()
    assert rows.pop("write alone, as much as is decoded")["ms"] > 0
    assert all(row["ms"] > 0 and 0 < row["nmse_k"] < 0.05 for row in rows.values())
    codecs = {row["codec"]: row for row in shape["codecs"]}
    assert codecs["QVG-Plus INT2"]["nmse_v"] < codecs["QVG INT2"]["nmse_v"] / 2
    assert codecs["QVG-Max"]["ratio"] > codecs["QVG INT2"]["ratio"]
    main(["table", str(path)])
    again = capsys.readouterr().out
    assert table.markdown(result) in again and table.markdown(result).splitlines()[4] in printed
    assert "| QVG-Max |" in again


def test_nothing_is_timed_where_a_kernel_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    right = selfcheck.hadamard
    monkeypatch.setattr(selfcheck, "hadamard", lambda x: 1.001 * right(x))
    with pytest.raises(SystemExit, match="hadamard, 63 tokens"):
        ops.refuse_if_wrong(CPU)
    monkeypatch.setattr(selfcheck, "hadamard", lambda x: float("nan") * right(x))
    with pytest.raises(SystemExit, match="nan"):
        ops.refuse_if_wrong(CPU)


def test_the_authors_code_is_asked_for_in_words(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="CUDA only"):
        main(["ops", "--device", "cpu", "--reference", str(tmp_path)])
    with pytest.raises(SystemExit, match="no checkout"):
        ops.Reference(tmp_path, 2)
    (tmp_path / "quant_videogen").mkdir()
    (tmp_path / "quant_videogen" / "compress.py").write_text("import something_nobody_has")
    with pytest.raises(SystemExit, match="pip install something_nobody_has"):
        ops.Reference(tmp_path, 2)


def test_cache_measures_every_length_and_codec(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cache.json"
    arguments = ["--device", "cpu", "--geometry", "worldplay", "--codec", "QVG INT2", "KIVI INT2"]
    more = ["--latents", "4", "24", "--policy", "every=2,sink=1", "--seconds", "0", "--json", str(path)]
    main(["cache", *arguments, *more])
    capsys.readouterr()
    shape = json.loads(path.read_text())["shapes"]["worldplay"]
    assert shape["policy"] == "every=2,sink=1"
    rows = {(row["latents"], row["codec"]): row for row in shape["rows"]}
    names = ["one BF16 call", "BF16", "QVG INT2", "KIVI INT2"]
    assert list(rows) == [(length, name) for length in (4, 24) for name in names]
    # The cache in BF16 computes what one call does; what is encoded is a little off.
    assert rows[24, "BF16"]["error"] < 0.01 < rows[24, "QVG INT2"]["error"] < 0.1
    assert rows[24, "QVG INT2"]["held_mib"] < rows[24, "BF16"]["held_mib"]
    assert rows[24, "QVG INT2"]["spans"] == 2 and rows[24, "QVG INT2"]["decode_ms"] > 0
    assert rows[4, "QVG INT2"]["spans"] == 0
    main(["table", str(path), "--columns", "latents", "history", "error"])
    printed = capsys.readouterr().out
    assert "| latents | history | error |" in printed and "| 24 | KIVI INT2 | 0." in printed
    with pytest.raises(SystemExit, match="no column 'colour'"):
        main(["table", str(path), "--columns", "colour"])
    picture(path, tmp_path, capsys)


def picture(path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    main(["plot", str(path), "--out", str(folder)])
    drawn = Path(capsys.readouterr().out.strip())
    assert drawn == folder / "cache-worldplay.png"
    assert drawn.read_bytes()[16:24] == (1600).to_bytes(4, "big") + (700).to_bytes(4, "big")


def test_the_picture_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    path = tmp_path / "cache.json"
    path.write_text(json.dumps({"kind": "cache", "card": "", "shapes": {"pocket": {"rows": []}}}))
    with pytest.raises(SystemExit, match="pip install matplotlib"):
        main(["plot", str(path)])
    path.write_text(json.dumps({"kind": "ops"}))
    with pytest.raises(SystemExit, match="not of cache"):
        main(["plot", str(path)])


@pytest.mark.parametrize("fails", ["QVG INT2", "BF16"])
def test_a_codec_that_runs_out_of_memory_leaves_the_others(
    fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = cache.Case.commit

    def short_of_memory(case: cache.Case, k: torch.Tensor, v: torch.Tensor) -> None:
        if case.name == fails and case.cache.frames >= 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        commit(case, k, v)

    monkeypatch.setattr(cache.Case, "commit", short_of_memory)
    rows: list[dict] = []
    small = SETTINGS["worldplay"].small()
    cache.grow(small, ["QVG INT2"], CachePolicy(every=2), [8, 20], CPU, rows.append, seconds=0)
    ended = [row for row in rows if "skipped" in row]
    assert [(row["codec"], row["latents"]) for row in ended] == [(fails, 12)]
    assert {row["codec"] for row in rows if row["latents"] == 20} == (
        {"one BF16 call", "BF16"} if fails == "QVG INT2" else {"QVG INT2"}
    )


def test_attention_that_runs_out_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    attend = cache.attend

    def short_of_memory(q: torch.Tensor, layer: object, rotate: object) -> torch.Tensor:
        if getattr(layer, "next_frame", 0) > 8:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return attend(q, layer, rotate)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(cache, "attend", short_of_memory)
    rows: list[dict] = []
    small = SETTINGS["worldplay"].small()
    cache.grow(small, ["QVG INT2"], CachePolicy(every=2), [8, 20, 24], CPU, rows.append, seconds=0)
    assert [row["codec"] for row in rows if "skipped" in row] == ["BF16", "QVG INT2"]


@pytest.mark.parametrize("text", ["every", "each=2", "every=x", "every=0", "window=1"])
def test_a_policy_that_is_none(text: str) -> None:
    with pytest.raises(SystemExit):
        parse_policy(text, CachePolicy())


@pytest.mark.parametrize(
    "text", ["every=8", "every=1,sink=1,recent=2,window=9,device_bytes=0,attention_bits=8"]
)
def test_a_policy_in_words_and_back(text: str) -> None:
    assert policy_name(parse_policy(text, CachePolicy(every=5))) == text


def test_a_stream_is_one_video_in_pieces() -> None:
    geometry = CacheGeometry(layers=1, heads=2, head_dim=64, tokens_per_frame=6)
    whole = Stream(geometry, "k", CPU, seed=3).frames(5)
    stream = Stream(geometry, "k", CPU, seed=3)
    assert torch.equal(torch.cat([stream.frames(2), stream.frames(3)], dim=2), whole)
    assert whole.shape == (1, 2, 30, 64) and whole.dtype == torch.bfloat16
    frames = whole.float().unflatten(2, (5, 6))
    assert (frames[:, :, 1] - frames[:, :, 0]).norm() < 0.2 * frames[:, :, 0].norm()
    assert not torch.equal(Stream(geometry, "v", CPU, seed=3).frames(5), whole)


def test_settings_are_those_of_the_models() -> None:
    from backends.registry import entries

    specs = {entry.spec.id: entry.spec for entry in entries()}
    for name, setting in SETTINGS.items():
        spec = specs[name.replace("-", "_")]
        geometry = spec.geometry
        assert (setting.layers, setting.heads) == (geometry.layers, geometry.heads)
        assert setting.geometry.tokens_per_frame == geometry.tokens_per_frame
        assert setting.block == spec.latents_per_block
    assert SPANS["self-forcing"] * 1560 == 37_440 and SPANS["longcat"] * 1560 == 29_640
    assert SETTINGS["self-forcing"].video_frames(180) == 717 and SETTINGS["pocket"].video_frames(96) == 96


def test_times_are_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    assert timed([lambda: time.sleep(0.003)], CPU, 0).ms < 2  # one thread, which does nothing meanwhile
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    took = alternating({"short": lambda: time.sleep(0.002), "long": lambda: time.sleep(0.01)}, CPU, 0)
    assert took["short"].ms < took["long"].ms and took["long"].wall_ms > 9
    assert timed([lambda: time.sleep(0.003)] * 2, CPU, 0).ms > 2.9


def test_where_results_are_written() -> None:
    path = usual_path("ops", "NVIDIA H100 80GB HBM3")
    assert path.parts[-3:] == ("assets", "bench", "ops-nvidia-h100-80gb-hbm3.json")


def test_a_result_without_a_table() -> None:
    with pytest.raises(ValueError, match="'poem' has no table"):
        table.markdown({"kind": "poem"})
