"""Everything that can break a run, broken: the page says so, keeps what was made, and the next run works."""

from __future__ import annotations

import contextlib
import os
import random
import re
import resource
import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.error import FFmpegError

from backends.base import BackendUnavailable
from backends.pocket import load, spec
from backends.runtime.worker import Worker
from tests.soak import faults
from tests.soak.conftest import FULL, Tell
from tests.soak.managers import BLOCK, QUICK, frames_of, tab, working
from tests.ui.page import Page
from ui.runs import mp4

WAY_OUT = re.compile(
    "press Generate|try again|generate it again|fewer blocks|clone the repository|make room", re.I
)


@pytest.fixture(scope="module")
def whole(worker: Worker, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The frames of a run that nothing happens to."""
    page = tab(worker, tmp_path_factory.mktemp("whole"))
    page.run(prompt="a box", **QUICK)
    return frames_of(page)


def said_well(page: Page) -> None:
    """One line, without a traceback, that says what to do."""
    said = page.status["text"]
    assert page.status["kind"] == "error"
    assert len(said) < 500 and "\n" not in said
    assert "Traceback" not in said and 'File "' not in said
    assert WAY_OUT.search(said), said


@pytest.mark.parametrize(
    ("fault", "words", "times"),
    [
        ("kill", "was ended by the system (signal 9, often out of memory)", 50 if FULL else 1),
        ("hog", "Out of memory in block", 50 if FULL else 1),
        ("oom", "Out of memory in block", 50 if FULL else 1),
        ("raise", "RuntimeError: a made-up fault", 50 if FULL else 1),
    ],
)
def test_a_run_breaks_and_the_next_one_works(
    worker: Worker, whole: np.ndarray, tmp_path: Path, tell: Tell, fault: str, words: str, times: int
):
    lost = 0
    dice = random.Random(fault)
    page = tab(worker, tmp_path)
    for _ in range(times):
        block = dice.randrange(QUICK["blocks"])
        page.run(prompt=f"a box {fault}={block}", **QUICK)
        said_well(page)
        assert words in page.status["text"]
        kept = frames_of(page)
        # Encoded once, and in pieces of the same lengths: the same to the bit.
        lost += not np.array_equal(kept, whole[: BLOCK * block])
        page.run(prompt="a box", **QUICK)
        assert page.status["kind"] == "done"
        lost += not np.array_equal(frames_of(page), whole)
    assert len(page.history) == min(12, len(list(tmp_path.glob("2*"))))
    assert lost == 0
    tell(f"crash, {fault}", faults=times, said=times, next_run_works=times, lost=lost)


def test_a_corrupted_span_harms_its_own_run_only(
    worker: Worker, whole: np.ndarray, tmp_path: Path, tell: Tell
):
    """The cache is overwritten while it is read: noise is a worse picture, no number is an error."""
    times, told = 50 if FULL else 3, 0
    page = tab(worker, tmp_path)
    for seed in range(times):
        page.run(prompt="a box span=1", seed=seed, **QUICK)
        if page.status["kind"] == "error":
            said_well(page)
            told += 1
        kept = frames_of(page)
        assert len(kept) == BLOCK * (2 if page.status["kind"] == "done" else 1)
    page.run(prompt="a box", **QUICK)
    assert np.array_equal(frames_of(page), whole)
    assert told
    tell("crash, corrupted span", faults=times, said=told, went_on_with_other_pixels=times - told, lost=0)


def test_a_weight_file_cut_off_anywhere(tmp_path: Path, tell: Tell):
    times, dice = 50 if FULL else 4, random.Random(0)
    for _ in range(times):
        folder = tmp_path / "weights"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(spec.WEIGHTS, folder)
        file = folder / dice.choice(spec.FILES)
        size = file.stat().st_size
        os.truncate(file, dice.choice([0, 1, 8, dice.randrange(size), size - 1]))
        with pytest.raises(BackendUnavailable, match=rf"{file.name} cannot be read .*clone the repository"):
            load.load_models(torch.device("cpu"), folder)
    tell("crash, truncated weights", faults=times, said=times, lost=0)


@pytest.mark.skipif(not FULL, reason="starts a process more; the one above cuts them off, too")
def test_a_weight_file_cut_off_is_said_and_whole_again_it_works(tmp_path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "weights"
    shutil.copytree(spec.WEIGHTS, folder)
    os.truncate(folder / spec.FILES[0], 1000)
    monkeypatch.setenv(faults.WEIGHTS_VARIABLE, str(folder))
    with working() as worker:
        page = tab(worker, tmp_path / "outputs")
        page.run(prompt="a box", **QUICK)
        said_well(page)
        shutil.copytree(spec.WEIGHTS, folder, dirs_exist_ok=True)
        page.run(prompt="a box", **QUICK)
        assert page.status["kind"] == "done"


@pytest.fixture
def small_disk(tmp_path: Path):
    """Makes a file system of so many bytes, or a limit on every file where that may not be."""
    folder = tmp_path / "disk"
    folder.mkdir()
    had, mounted = resource.getrlimit(resource.RLIMIT_FSIZE), []

    def make(size: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode == 0:
            mounted.append(folder)
        else:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 4, had[1]))
        return folder / "outputs"

    def release() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, had)
        while mounted:
            subprocess.run(["umount", "-l", str(mounted.pop())], check=True)

    yield make, release
    release()


def test_a_disk_fills_up(worker: Worker, tmp_path: Path, small_disk, tell: Tell):
    """At any byte: the blocks stay on the page and can be played to their end, and the next run has room."""
    make, release = small_disk
    times, dice, tried, full = 50 if FULL else 1, random.Random(1), 0, 0
    while full < times:
        tried += 1
        assert tried < 10 * times, "runs of this length fit on every disk"
        # Blocks are some 10 KiB each; a tmpfs counts in pages of 4. Some disks have room for all.
        outputs = make(4096 * dice.randrange(2, 20))
        page = tab(worker, outputs)
        page.run(prompt="a box", **QUICK)
        assert page.status["kind"] == "done"
        problems = [note for note in page.status["notes"] if "could not be saved" in note]
        full += bool(problems)
        final = page.track["final"]
        if final.startswith("data:"):
            assert problems
            assert "disk is full" in problems[0] or "File too large" in problems[0]
        else:
            assert len(frames_of(page)) == BLOCK * QUICK["blocks"]
        data = page.track["segments"]
        assert len(data) == QUICK["blocks"]
        release()
    page = tab(worker, tmp_path / "room")
    page.run(prompt="a box", **QUICK)
    assert page.status["kind"] == "done" and not page.track["final"].startswith("data:")
    tell("crash, full disk", faults=full, said=full, disks_with_room=tried - full, lost=0)


def decodable(video: Path) -> int:
    """Frames, as players count them: past what is damaged."""
    count = 0
    with av.open(str(video)) as container:
        for packet in container.demux(video=0):
            with contextlib.suppress(FFmpegError):
                count += len(packet.decode())
    return count


def test_a_damaged_block_on_the_disk_does_not_take_the_others_along(tmp_path: Path, tell: Tell):
    """What a program that was killed left behind, with bytes of one block changed or missing."""
    from ui.runs import folder, recovery
    from ui.runs.run_index import RunIndex

    times, dice = 50 if FULL else 5, random.Random(2)
    blocks = [np.full((4, 32, 32, 3), 40 * n, np.uint8) for n in range(4)]
    for number in range(times):
        run = tmp_path / f"2026-01-01-{number:06d}-000-a"
        kept = folder.RunFolder(run)
        for index, frames in enumerate(blocks):
            kept.keep(f"1-video-{index:05d}", mp4.encode_segment(frames, 8).data)
        kept.record(
            {"id": "a", "owner": "", "state": "running", "order": 1.0, "made": {"fps": 8, "blocks": 4}}
        )
        broken = dice.choice(sorted(run.glob("segment-*")))
        data = bytearray(broken.read_bytes())
        for _ in range(20):
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        broken.write_bytes(bytes(data[: dice.choice([len(data), dice.randrange(len(data)), 0])]))
        kept.release()  # as the system does when a program ends
        index = RunIndex(tmp_path)
        recovery.take_up(index)
        (past,) = index.newest(1)
        assert past.state == "done"
        assert decodable(past.videos[0]) >= 12, "the other three blocks"
        shutil.rmtree(run)
    tell("crash, damaged block on the disk", faults=times, lost=0)
