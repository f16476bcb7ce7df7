"""Kernels compiled before the first block: which, when, what is said, and what goes wrong."""

from __future__ import annotations

import multiprocessing
import os
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from backends import registry
from backends.base import Stopped
from backends.events import Done, Loading
from backends.memory_plan import codec_for
from backends.runtime import warmup
from backends.runtime.generator_process import Ended, JobRunner, Order, make_controls
from backends.runtime.hardware import not_writable
from backends.runtime.jobs import Side
from backends.runtime.warmup import Use, Warmup
from qvg.config import BF16, PRESETS
from qvg.ops.ahead import Launch
from qvg.ops.card import kind_of_card
from tests.backends.runtime.test_worker import job

GPU = torch.device("cuda", 0)
CARD = kind_of_card((12, 0))
ROOT = Path(__file__).resolve().parents[3]


def use(backend_id: str, *presets: str, mode: str = "") -> Use:
    spec = registry.find(backend_id)
    return Use(backend_id, tuple(Side(name, codec_for(spec, name), spec.policy) for name in presets), mode)


def names(launches: list[Launch]) -> set[str]:
    return {launch.name.rpartition(".")[2] for launch in launches}


pytest.importorskip("triton")


@pytest.mark.parametrize("backend_id", registry.IDS)
def test_every_generator_says_what_it_launches(backend_id: str) -> None:
    plain = names(warmup.launches(use(backend_id, "BF16"), CARD))
    usual = names(warmup.launches(warmup.usual(backend_id), CARD))
    # k-means has a kernel for cards with more shared memory, and one for the others.
    assert not plain & {"_assign", "_nearest"}
    assert usual & {"_assign", "_nearest"}
    assert {"_largest", "_kept", "_reconstruct", "_merge"} <= usual
    assert ("_turn" in usual) == (backend_id == "worldplay")
    both = names(warmup.launches(use(backend_id, "BF16", "KIVI INT2"), CARD))
    assert both >= plain and "_dequantize" in both and "_kept" not in both


@pytest.mark.parametrize("mode", [mode.id for mode in registry.find("worldplay").modes])
def test_every_mode_is_known(mode: str) -> None:
    spec = registry.find("worldplay")
    policy = next(each.policy for each in spec.modes if each.id == mode)
    side = Side("QVG INT2", codec_for(spec, "QVG INT2"), policy)
    assert "_turn" in names(warmup.launches(Use("worldplay", (side,), mode), CARD))


def test_a_generator_that_does_not_say_has_none() -> None:
    assert warmup.launches(Use("fake", (Side("BF16", BF16, registry.find("pocket").policy),)), CARD) == []


@pytest.mark.parametrize(
    ("presets", "words"),
    [
        (["QVG INT2"], "QVG INT2"),
        (["BF16", "QVG-Pro INT2"], "BF16 and QVG-Pro INT2"),
        (["BF16", "BF16"], "BF16"),
    ],
)
def test_presets_are_named(presets: list[str], words: str) -> None:
    assert use("pocket", *presets).name == words
    own = replace(codec_for(registry.find("pocket"), "QVG INT2"), clusters=17)
    assert Use("pocket", (Side("QVG INT2", own, registry.find("pocket").policy),)).name == "this KV cache"


@pytest.fixture
def compiling(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A card of capability 12.0, for which `compiling.of` compiles once `compiling.may` is set."""
    may = threading.Event()
    may.set()
    noted = SimpleNamespace(may=may, done=[], of=lambda launch, capability: None)

    def compile_for(launch: Launch, capability: tuple[int, int]) -> None:
        assert may.wait(30)
        noted.of(launch, capability)
        noted.done.append((launch.name, capability))

    # Triton asks whether to interpret when a kernel is imported: all of them alike.
    warmup.launches(use("pocket", "QVG INT2", "KIVI INT2", "QuaRot INT2"), CARD)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr("qvg.ops.ahead.compile_for", compile_for)
    monkeypatch.setattr("qvg.ops.card.card_of", lambda device: CARD)
    monkeypatch.setattr(warmup, "_ready", set())
    monkeypatch.setattr(warmup, "LOOK_S", 0.01)
    return noted


def test_kernels_are_compiled_once_and_for_the_card_that_is_here(compiling) -> None:
    said: list[str] = []
    with Warmup(warmup.usual("pocket"), GPU) as warm:
        warm.wait(said.append)
    assert len(compiling.done) == len(warmup.launches(warmup.usual("pocket"), CARD))
    assert {capability for _, capability in compiling.done} == {(12, 0)}
    count = len(compiling.done)
    with Warmup(warmup.usual("pocket"), GPU) as warm:
        warm.wait(said.append)
    assert len(compiling.done) == count
    # Another preset needs what is its own, and no more.
    with Warmup(use("pocket", "KIVI INT2"), GPU) as warm:
        warm.wait(said.append)
    new = [name for name, _ in compiling.done[count:]]
    assert any("affine" in name for name in new) and not any("attention" in name for name in new)


def test_what_is_going_on_is_said(compiling) -> None:
    said: list[str] = []
    compiling.may.clear()

    def on_status(text: str) -> None:
        said.append(text)
        compiling.may.set()

    with Warmup(use("pocket", "BF16", "QVG-Pro INT2"), GPU) as warm:
        warm.wait(on_status)
    total = len(compiling.done)
    assert said[0] == f"Compiling kernels for BF16 and QVG-Pro INT2 (1 of {total})."


def test_a_user_who_stops_does_not_wait(compiling) -> None:
    compiling.may.clear()

    def on_status(text: str) -> None:
        raise Stopped

    with pytest.raises(Stopped), Warmup(warmup.usual("pocket"), GPU) as warm:
        warm.wait(on_status)
    compiling.may.set()
    assert len(compiling.done) < len(warmup.launches(warmup.usual("pocket"), CARD))


def test_what_cannot_be_compiled_is_one_sentence_in_the_log(compiling, caplog) -> None:
    def fail(launch: Launch, capability: tuple[int, int]) -> None:
        raise RuntimeError("out of resource: shared memory, Required: 114952, Hardware limit: 101376")

    compiling.of = fail
    with Warmup(warmup.usual("pocket"), GPU) as warm:
        warm.wait(lambda text: None)
    (record,) = [record for record in caplog.records if record.name == warmup.__name__]
    assert "kernels were not compiled ahead" in record.getMessage() and "shared memory" in record.getMessage()
    assert not warmup._ready


def test_launches_that_cannot_be_found_do_not_end_a_load(compiling, monkeypatch, caplog) -> None:
    def fail(*_: object) -> None:
        raise NotImplementedError("aten::something: attempted to run on meta tensors")

    monkeypatch.setattr(warmup, "launches", fail)
    with Warmup(warmup.usual("pocket"), GPU) as warm:
        warm.wait(lambda text: None)
    assert "meta tensors" in caplog.text


@pytest.mark.parametrize("why", ["cpu", "no triton", "interpreted"])
def test_nothing_is_compiled_where_nothing_can_be(compiling, monkeypatch, why: str) -> None:
    if why == "no triton":
        monkeypatch.setattr(warmup, "find_spec", lambda name: None)
    if why == "interpreted":
        monkeypatch.setenv("TRITON_INTERPRET", "1")
    said: list[str] = []
    with Warmup(warmup.usual("pocket"), torch.device("cpu") if why == "cpu" else GPU) as warm:
        warm.wait(said.append)
    assert compiling.done == said == []


def test_a_job_is_prepared_while_its_generator_loads(monkeypatch) -> None:
    happened: list[str] = []

    class Noted:
        def __init__(self, use: Use, device: torch.device) -> None:
            happened.append(f"compiling for {use.name}")

        def __enter__(self) -> Noted:
            return self

        def __exit__(self, *_: object) -> None:
            happened.append("no more")

        def wait(self, on_status) -> None:
            on_status("Compiling kernels.")

    monkeypatch.setattr("backends.runtime.generator_process.Warmup", Noted)
    controls = make_controls(multiprocessing.get_context("spawn"))
    host = JobRunner(torch.device("cpu"), "tests.fake_backend:load", controls)
    for number, backend_id in enumerate(("fake", "fake", "absent"), start=1):
        events: list[object] = []
        host.serve(Order(number, replace(job(), backend_id=backend_id)), events.append)
        texts = [event.text for event in events if isinstance(event, Loading)]
        loading = [] if number == 2 else [f"Loading {backend_id}."]
        assert texts == [*loading, *([] if backend_id == "absent" else ["Compiling kernels."])]
        last = events[-1]
        assert isinstance(last, Ended) and isinstance(last.event, Done) == (backend_id == "fake")
    assert happened == ["compiling for BF16", "no more"] * 3
    without = JobRunner(torch.device("cpu"), "tests.fake_backend:load", controls, compiles=False)
    without.serve(Order(4, job()), events.append)
    assert len(happened) == 6


@pytest.mark.parametrize(
    ("text", "expected"),
    [("sm_120", (12, 0)), ("12.0", (12, 0)), ("SM_86", (8, 6)), ("sm_90a", (9, 0)), ("8.9", (8, 9))],
)
def test_cards_by_name(text: str, expected: tuple[int, int]) -> None:
    assert warmup.capability_of(text) == expected


@pytest.mark.parametrize("text", ["", "sm_", "sm_x", "9", "RTX 5090"])
def test_what_is_no_card_is_said(text: str) -> None:
    with pytest.raises(ValueError, match="is no compute capability"):
        warmup.capability_of(text)


def test_a_process_compiles_without_a_gpu(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    process = warmup.start_process([use("pocket", "BF16")], ["sm_120"])
    assert process.wait(120) == 0
    assert list(tmp_path.glob("*/_merge.cubin"))


@pytest.mark.parametrize("preset", PRESETS)
def test_what_a_process_is_to_compile_for_arrives_as_it_was_sent(preset: str) -> None:
    uses = (use("pocket", preset, "BF16"), use("worldplay", preset))
    assert warmup._parsed(warmup._written(uses)) == uses


@pytest.fixture
def folders(tmp_path: Path, monkeypatch):
    """Without a place of Triton's own that can be written to."""
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    monkeypatch.setenv("TRITON_HOME", "/proc/nowhere")
    # A name set by the program is taken back after the test.
    monkeypatch.setattr(warmup, "os", SimpleNamespace(**{**vars(os), "environ": dict(os.environ)}))
    return tmp_path


def test_kernels_are_kept_beside_the_videos_where_home_cannot_be_written_to(folders: Path) -> None:
    assert str(warmup.cache_folder()) == "/proc/nowhere/.triton/cache"
    assert not_writable(warmup.cache_folder())
    warmup.keep_kernels(folders / "outputs")
    assert warmup.cache_folder() == folders / "outputs" / ".triton"
    assert not not_writable(warmup.cache_folder())
    assert list(folders.iterdir()) == []


def test_or_where_nobody_else_writes(folders: Path, monkeypatch) -> None:
    monkeypatch.setattr(warmup.tempfile, "tempdir", str(folders))
    warmup.keep_kernels(Path("/proc/outputs"))
    folder = warmup.cache_folder()
    assert folder.parent == folders
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_can_be_written_to_is_left_alone(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "mine"))
    warmup.keep_kernels(tmp_path / "outputs")
    assert warmup.cache_folder() == tmp_path / "mine"
    (tmp_path / "file").touch()
    assert "is not a folder" in not_writable(tmp_path / "file" / "below")
    assert "is not a folder" in not_writable(Path("/dev/null/outputs"))
    assert not_writable(tmp_path / "a" / "b") == "" and not (tmp_path / "a").exists()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    assert "is not a folder" in not_writable(tmp_path / "link")


def test_presets_and_generators_are_all_known_here() -> None:
    for backend_id in registry.IDS:
        for preset in PRESETS:
            assert use(backend_id, preset).name == preset
