"""The report on a machine: what it says here, and of machines where something is missing or broken."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import app
from backends import checkup, registry
from backends.checkup import Part, Place
from backends.hub import artifacts
from backends.registry import Entry
from backends.runtime import hardware
from backends.runtime.hardware import DeviceInfo
from qvg import selfcheck
from qvg.config import PRESETS

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
CARD = DeviceInfo(
    "NVIDIA GeForce RTX 5090", "cuda", 32 << 30, 8, "bfloat16", "cuda-flash", ("it was faster",)
)


def place(tmp_path: Path, info: DeviceInfo | None = None) -> Place:
    here = Place("cpu", tmp_path)
    here.__dict__["device"] = CPU if info is None or info.kind == "cpu" else torch.device("cuda", 0)
    if info is not None:
        here.__dict__["info"] = info
    return here


def test_the_command_says_in_json_that_it_works_here(tmp_path: Path) -> None:
    """Without the page's libraries, and with nothing but JSON on its output."""
    code = (
        "import sys, runpy\n"
        "sys.argv = ['app.py', '--check', '--json', '--device', 'cpu', '--outputs', "
        f"{str(tmp_path / 'outputs')!r}]\n"
        "try:\n    runpy.run_path('app.py', run_name='__main__')\n"
        "except SystemExit as end:\n    code = end.code\n"
        "print('gradio' in sys.modules, code, file=sys.stderr)"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    found = json.loads(ran.stdout)
    assert ran.stderr.splitlines()[-1] == "False 0", ran.stderr
    assert found["works"] is True
    parts = found["parts"]
    assert list(parts) == [
        *("software", "device", "attention", "kernels", "memory", "outputs", "frame", "generators")
    ]
    assert parts["software"]["versions"]["torch"] == torch.__version__
    assert parts["device"]["kind"] == "cpu" and parts["attention"]["attention"]
    assert parts["memory"]["ram_bytes"] > 0 and parts["outputs"]["writable"] is True
    assert len(parts["frame"]["seconds"]) == 2
    assert set(parts["generators"]["generators"]) == set(registry.IDS)
    assert all(sentence.endswith(".") for part in parts.values() for sentence in part["sentences"])
    assert list(tmp_path.iterdir()) == []


def few(monkeypatch, *ids: str) -> None:
    """Only some of the parts are looked at."""
    every = {"_software", "_device", "_attention", "_kernels", "_memory", "_outputs", "_frame", "_generators"}
    for name in every - {f"_{each}" for each in ids}:
        monkeypatch.setattr(checkup, name, lambda *_, name=name: Part(name[1:], name[1:], ("Fine.",)))


@pytest.mark.parametrize("name", ["software", "device", "attention", "kernels", "memory", "outputs", "frame"])
def test_a_part_that_fails_is_a_sentence_and_the_others_are_told(name, monkeypatch, tmp_path, capsys) -> None:
    few(monkeypatch)

    def fail(*_: object) -> Part:
        raise OSError("libcudart.so.12: cannot open\nshared object file")

    monkeypatch.setattr(checkup, f"_{name}", fail)
    code = checkup.run("cpu", tmp_path)
    said = capsys.readouterr().out
    assert code == (1 if name in ("software", "device", "frame") else 0)
    assert "cannot be looked at: OSError: libcudart.so.12: cannot open shared object file." in said
    assert said.count("Fine.") == 7
    assert "Traceback" not in said
    assert ("It works here." in said) == (code == 0)


def test_a_device_that_is_not_here_is_a_sentence(monkeypatch, tmp_path, capsys) -> None:
    few(monkeypatch, "device", "attention", "kernels", "frame", "generators")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert checkup.run("cuda", tmp_path, as_json=True) == 1
    parts = json.loads(capsys.readouterr().out)["parts"]
    assert "finds no GPU for device 'cuda'" in parts["device"]["sentences"][0]


def properties(major: int, minor: int, shared: int = 101_376) -> SimpleNamespace:
    return SimpleNamespace(
        name="Card", major=major, minor=minor, total_memory=32 << 30, shared_memory_per_block_optin=shared
    )


@pytest.fixture
def card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties(12, 0))
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_90", "sm_120"])
    monkeypatch.setattr(checkup, "_driver", lambda: "575.57.08")


def test_a_card_is_described(card, tmp_path) -> None:
    part = checkup._device(place(tmp_path, CARD))
    assert part.works
    assert part.facts["capability"] == "12.0" and part.facts["shared_memory_per_block"] == 101_376
    assert "101,376 bytes of shared memory a block, driver 575.57.08" in part.sentences[1]


@pytest.mark.parametrize(
    ("archs", "capability", "works"),
    [
        (["sm_80", "sm_90"], (12, 0), False),
        (["sm_80", "sm_86"], (8, 9), True),
        (["sm_90a"], (9, 0), True),
        (["sm_90", "compute_90"], (12, 0), True),
        (["sm_120"], (9, 0), False),
        ([], (12, 0), True),
        (["gfx942"], (9, 4), False),
    ],
)
def test_a_torch_that_has_no_kernels_for_the_card(
    card, monkeypatch, tmp_path, archs, capability, works
) -> None:
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: archs)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties(*capability))
    part = checkup._device(place(tmp_path, CARD))
    assert part.works is works
    assert works or "install a newer torch" in part.sentences[-1]


@pytest.mark.parametrize(
    ("asked", "words"), [("auto", "install torch for CUDA"), ("cpu", "leaves its GPU alone")]
)
def test_a_driver_without_a_gpu_for_torch(monkeypatch, tmp_path, asked, words) -> None:
    monkeypatch.setattr(checkup, "_driver", lambda: "575.57.08")
    here = place(tmp_path, replace(CARD, kind="cpu"))
    here.name = asked
    assert words in checkup._device(here).sentences[-1]


def test_kernels_that_fail_are_named_and_one_working_preset_is_enough(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(checkup, "find_spec", lambda name: object())

    def whole(device, presets, head_dim):
        for name in presets:
            problem = "" if name in working else "OutOfResources: out of resource: shared memory"
            yield selfcheck.Check(name, 0.1, 1.0, problem)

    monkeypatch.setattr(
        selfcheck, "checks", lambda device, lengths: iter([selfcheck.Check("merge", 0, 1e-5)])
    )
    monkeypatch.setattr(selfcheck, "preset_checks", whole)
    monkeypatch.setattr("qvg.ops.kernels.refused", lambda: ["_assign takes too much shared memory here."])
    working = {"BF16", "KIVI INT2"}
    part = checkup._kernels(place(tmp_path, CARD))
    assert part.works
    assert part.facts["refused"] == ["_assign takes too much shared memory here."]
    assert "_assign takes too much shared memory here." in part.sentences
    assert "QVG INT2 does not run: OutOfResources: out of resource: shared memory." in part.sentences
    assert part.sentences[0].startswith(f"3 of {1 + len(PRESETS)} comparisons with plain torch agree")
    working = {"BF16"}
    assert not checkup._kernels(place(tmp_path, CARD)).works
    json.dumps(part.facts, allow_nan=False)


def test_no_triton_and_a_cache_that_cannot_be_written(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(checkup, "find_spec", lambda name: None)
    part = checkup._kernels(place(tmp_path, CARD))
    assert part.works and "Triton is not installed" in part.sentences[0]
    monkeypatch.setattr(checkup, "find_spec", lambda name: object())
    monkeypatch.setenv("TRITON_CACHE_DIR", "/proc/nowhere")
    monkeypatch.setattr(selfcheck, "checks", lambda device, lengths: iter(()))
    monkeypatch.setattr(selfcheck, "preset_checks", lambda *_: iter(()))
    part = checkup._kernels(place(tmp_path, CARD))
    assert "not kept: /proc cannot be written to" in part.sentences[-1]
    assert part.facts["cache_writable"] is False


def test_videos_that_cannot_be_kept(tmp_path) -> None:
    (tmp_path / "file").touch()
    part = checkup._outputs(place(tmp_path / "file" / "outputs"))
    assert not part.works
    assert part.sentences[0].endswith("is not a folder. Choose another folder with --outputs.")


def test_a_frame_that_fails_or_shows_nothing(monkeypatch, tmp_path) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("CUDA error: no kernel image is available")

    monkeypatch.setattr(registry, "load", fail)
    few(monkeypatch, "frame")
    frame = next(part for part in checkup.parts("cpu", tmp_path) if part.id == "frame")
    assert not frame.works and "no kernel image" in frame.sentences[0]


@pytest.mark.parametrize(
    ("info", "words"),
    [
        (CARD, "its files are here and whole. Needs"),
        (replace(CARD, memory_bytes=8 << 30), "does not fit here at any length"),
        (replace(CARD, kind="cpu"), "on this CPU a block takes many minutes"),
        (replace(CARD, memory_bytes=16_000_000_000), "the CPU reads prompts"),
    ],
    ids=["fits", "small card", "cpu", "prompts on the CPU"],
)
def test_what_a_generator_is_like_here(info, words, monkeypatch) -> None:
    monkeypatch.setattr(artifacts, "locate", lambda artifact: Path("/there"))
    told, fact = checkup._generator(Entry(registry.find("self_forcing"), None), info)
    assert words in told
    assert fact["missing"] == [] and fact["missing_bytes"] == 0


def test_what_is_missing_of_a_generator_and_whether_the_disk_has_room(monkeypatch) -> None:
    monkeypatch.setattr(artifacts, "locate", lambda artifact: None)
    monkeypatch.setattr(checkup, "_disk_free", lambda folder: 5_000_000_000)
    told, fact = checkup._generator(Entry(registry.find("self_forcing"), "Not downloaded."), CARD)
    assert "The disk has 5.0 GB free, and 17.6 GB are to come." in told
    assert sum(each["bytes"] for each in fact["missing"]) == fact["missing_bytes"] > 17e9


def test_one_generator_that_cannot_be_looked_at(monkeypatch, tmp_path) -> None:
    def locate(artifact):
        raise OSError("Stale file handle")

    monkeypatch.setattr(artifacts, "locate", locate)
    entries = [Entry(spec, None) for spec in registry.specs()]
    monkeypatch.setattr(registry, "entries", lambda: tuple(entries))
    part = checkup._generators(place(tmp_path, CARD))
    assert "Pocket World: its files are here" in part.sentences[0]
    assert "Stale file handle" in part.sentences[1]


def test_kernels_for_another_card(monkeypatch, tmp_path) -> None:
    one = SimpleNamespace(kernel="qvg.ops.kmeans._assign", shared_bytes=82_184)
    monkeypatch.setattr("backends.runtime.warmup.compiled_for", lambda card: ([one], ["_x: OutOfResources"]))
    part = checkup._card("sm_120")
    assert part.facts["kernels"] == [{"name": "qvg.ops.kmeans._assign", "shared_memory": 82_184}]
    assert "1 kernels were compiled; they take up to 82,184 bytes" in part.sentences[0]
    monkeypatch.undo()
    few(monkeypatch)
    told = [part for part in checkup.parts("cpu", tmp_path, card="5090 Ti") if part.id == "card"]
    assert "is no compute capability" in told[0].sentences[0]


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        ('{"works": true, "parts": {"a": {"title": "A", "sentences": ["B."]}}}', [("a", "A", ("B.",))]),
        ("Segmentation fault", [("report", "About this machine", None)]),
        ("{}", [("report", "About this machine", None)]),
        ("", [("report", "About this machine", None)]),
    ],
)
def test_the_report_of_another_process(monkeypatch, tmp_path, out, expected) -> None:
    monkeypatch.setattr(checkup.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=out, stderr=""))
    found = checkup.elsewhere("cpu", tmp_path)
    for part, (name, title, sentences) in zip(found, expected, strict=True):
        assert (part.id, part.title) == (name, title)
        assert part.sentences == sentences if sentences else "python app.py --check" in part.sentences[0]


def test_a_report_that_takes_too_long(monkeypatch, tmp_path) -> None:
    def late(*_: object, **__: object) -> None:
        raise subprocess.TimeoutExpired("python", 1)

    monkeypatch.setattr(checkup.subprocess, "run", late)
    assert "took longer than" in checkup.elsewhere("cpu", tmp_path)[0].sentences[0]


def test_versions_of_the_driver(monkeypatch, tmp_path) -> None:
    file = tmp_path / "version"
    file.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  575.57.08  Release Build\nGCC version: 12\n"
    )
    monkeypatch.setattr(checkup, "DRIVER", file)
    assert checkup._driver() == "575.57.08"
    monkeypatch.setattr(checkup, "DRIVER", tmp_path / "none")
    monkeypatch.setattr(checkup.shutil, "which", lambda name: None)
    assert checkup._driver() == ""


def test_the_parser_passes_the_flags_on(monkeypatch, tmp_path) -> None:
    asked = []
    monkeypatch.setattr("backends.checkup.run", lambda *given: asked.append(given) or 1)
    monkeypatch.setattr(
        sys, "argv", ["app.py", "--check", "--json", "--card", "sm_86", "--outputs", str(tmp_path)]
    )
    with pytest.raises(SystemExit) as end:
        app.main()
    assert end.value.code == 1
    assert asked == [("auto", tmp_path, "sm_86", True)]


def test_memory_of_a_container(monkeypatch, tmp_path) -> None:
    monkeypatch.setattr(hardware, "ram_bytes", lambda: 4 << 30)
    file = tmp_path / "meminfo"
    file.write_text("MemTotal: 24635392 kB\nMemAvailable: 20635392 kB\nSwapTotal: 2097152 kB\nHugePages: 0\n")
    monkeypatch.setattr(checkup, "MEMORY", file)
    part = checkup._memory(place(tmp_path))
    assert part.sentences[0] == "4.0 GiB of RAM, 4.0 GiB of it free, and 2.0 GiB of swap."
    monkeypatch.setattr(checkup, "MEMORY", tmp_path / "none")
    assert checkup._memory(place(tmp_path)).facts["swap_bytes"] == 0
