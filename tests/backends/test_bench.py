"""The benchmark on a tiny Self-Forcing with random weights: what its table and its last line say."""

import dataclasses
import json

import pytest
import torch

from backends import bench, registry
from backends.memory_plan import plan
from backends.runtime import hardware
from backends.self_forcing.spec import TINY as TINY_SPEC
from qvg import BF16, QVG, CachePolicy, KVCache
from qvg.policy import cache_bytes

TINY = ("self-forcing", "--random-weights", "--tiny", "--device", "cpu", "--threads", "1")


@pytest.fixture(autouse=True)
def threads(monkeypatch):
    before = torch.get_num_threads()
    monkeypatch.delenv("QVG_STUDIO_COMPILE", raising=False)
    yield
    torch.set_num_threads(before)


def run(capsys, *arguments):
    bench.main([*TINY, *arguments])
    lines = capsys.readouterr().out.splitlines()
    return lines, json.loads(lines[-1])


def test_blocks_at_lengths(capsys, tmp_path):
    file = tmp_path / "bench.json"
    lines, result = run(
        capsys,
        *("--codec", "BF16", "QVG INT2", "--policy", "every=1,clusters=8"),
        *("--latents", "18", "12", "--repeat", "1", "--json", str(file)),
    )
    assert json.loads(file.read_text()) == result
    assert lines[0].startswith("Self-Forcing, random weights, 96 x 64, on ")
    assert f"torch {torch.__version__}" in lines[0]
    assert "attention" in lines[0]
    assert len(lines) == 1 + 4 + 1
    rows = result["rows"]
    assert [(row["case"], row["latents"]) for row in rows] == [
        ("BF16 every=1,clusters=8", 12),
        ("BF16 every=1,clusters=8", 18),
        ("QVG INT2 every=1,clusters=8", 12),
        ("QVG INT2 every=1,clusters=8", 18),
    ]
    for row in rows:
        assert min(row[name] for name in ("block_ms", "denoise_ms", "read_ms", "decode_ms")) > 0
        assert min(row["encode_ms"], row["peak_gib"]) > 0
    few = dataclasses.replace(QVG, clusters=8)
    stored, dense = cache_bytes(TINY_SPEC.geometry, few, CachePolicy(every=1, grows=True, fine=True), 6, 3)
    assert rows[-1]["kv_gib"] == pytest.approx(stored / 2**30, abs=1e-4)
    assert rows[-1]["encoded_mib_a_layer"] == pytest.approx(stored / 2**20 / 2, abs=1e-4)
    assert rows[-1]["ratio"] == pytest.approx(dense / stored, abs=1e-4)


def test_history_in_the_hosts_memory_is_told_apart():
    backend = bench.load("self_forcing", torch.device("cpu"), random_weights=True, tiny=True)
    case = bench.parse_case(backend.spec, "QVG INT2", "every=1,clusters=8,device_gib=0.0001,grows=0,fine=0")
    assert case.policy == CachePolicy(every=1, device_bytes=107_374)
    cache = case.cache(backend, torch.device("cpu"))
    bench.fill(cache, 6)
    held = bench._held(cache)
    assert held["kv_gib"] == cache.stats().stored_bytes / 2**30
    assert held["kv_host_gib"] == pytest.approx(4 / 6 * held["kv_gib"])  # room for two of six spans


def test_codecs_are_compared_with_the_fastest_bf16_of_their_length():
    rows = [
        {"codec": "BF16", "latents": 21, "block_ms": 100.0},
        {"codec": "BF16", "latents": 21, "block_ms": 80.0},
        {"codec": "BF16", "latents": 60, "block_ms": 200.0},
        {"codec": "QVG INT2", "latents": 21, "block_ms": 82.0},
        {"codec": "QVG INT2", "latents": 180, "block_ms": 500.0},
        {"codec": "QVG INT2", "latents": 60, "skipped": "out of memory"},
    ]
    bench.against_bf16(rows)
    assert [row.get("over_bf16") for row in rows] == [0.25, 0, 0, pytest.approx(0.025), None, None]


def test_a_whole_video(capsys):
    lines, result = run(capsys, "--codec", "BF16", "--blocks", "3")
    (row,) = result["rows"]
    assert row["frames"] == 33
    assert min(row["first_block_ms"], row["late_decode_ms"]) > 0
    assert row["frames_per_second"] > 0
    assert row["cache_mib"] == row["bf16_mib"]
    assert lines[1].startswith("case BF16  frames 33")


def test_a_length_that_does_not_fit_is_said_and_the_next_codec_goes_on(capsys, monkeypatch):
    info = hardware.inspect(torch.device("cpu"))
    held = TINY_SPEC.working_bytes + 800_000
    small = dataclasses.replace(info, memory_bytes=held)
    monkeypatch.setattr(bench.hardware, "inspect", lambda device: small)
    _, result = run(
        capsys, "--codec", "BF16", "QVG INT2", "--policy", "every=1", "--latents", "18", "--repeat", "1"
    )
    dense, coded = result["rows"]
    assert "would run out at frame" in dense["skipped"]
    assert coded["block_ms"] > 0


def test_filling_is_as_committing():
    cache = KVCache(TINY_SPEC.geometry, BF16, CachePolicy(every=2), frames_per_block=3)
    bench.fill(cache, 5)
    assert cache.frames == 15
    bench.fill(cache, 3)
    assert cache.frames == 15
    stats = cache.stats()
    assert (stats.stored_bytes, stats.bf16_bytes) == cache_bytes(
        TINY_SPEC.geometry, BF16, CachePolicy(every=2), 5, 3
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--policy", "often=3"), "'often=3' is not one of every="),
        (("--policy", "every=0"), "every=0 must be at least 1"),
        (("--policy", "device_gib=-1"), "device_bytes=-1073741824 must be 0"),
        (("--policy", "every=x"), "invalid literal"),
    ],
)
def test_a_wrong_policy_is_a_sentence(arguments, words):
    with pytest.raises(SystemExit, match=words):
        bench.main([*TINY, *arguments])


def test_weights_that_are_not_here_are_a_sentence():
    entry = next(entry for entry in registry.entries() if entry.spec.id == "self_forcing")
    if entry.missing is None:
        pytest.skip("Self-Forcing is installed here")
    with pytest.raises(SystemExit, match=r"Self-Forcing cannot run here\. Not downloaded"):
        bench.main(["self_forcing", "--device", "cpu"])


def test_what_the_full_scale_will_say_of_memory():
    """The numbers an H200 is to show, from payloads and policies alone."""
    spec = registry.find("self_forcing")

    def gib(codec, policy, blocks):
        return cache_bytes(spec.geometry, codec, policy, blocks, 3)[0] / 2**30

    policy = CachePolicy(every=8)  # the paper's
    spans = gib(QVG, policy, 56)
    assert spans * 1024 / 30 == pytest.approx(220.45, abs=0.01)  # MiB a layer, 168 encoded latents
    assert gib(QVG, policy, 60) == pytest.approx(9.67, abs=0.01)
    assert gib(dataclasses.replace(QVG, clusters=64), CachePolicy(every=1), 60) < 7.5
    assert gib(BF16, policy, 60) == pytest.approx(48.20, abs=0.01)
    assert plan(spec, QVG, policy, 60, None).needs_bytes < 24 << 30


def test_pocket_can_be_made_of_random_weights_too():
    backend = bench.load("pocket", torch.device("cpu"), random_weights=True, tiny=True)
    assert backend.spec.id == "pocket"
