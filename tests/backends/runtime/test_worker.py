"""The background worker, on real processes: order, Stop, crashes, and nothing left behind.

`finish` bounds every wait, so that a worker that hangs fails a test and not the whole run.
"""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from backends.base import Request
from backends.camera import CameraMove
from backends.events import Done, Event, Failed, Loading, Progress, Queued, Update
from backends.runtime import jobs
from backends.runtime.hardware import physical_cores
from backends.runtime.worker import Job, Run, Side, Worker
from qvg.config import BF16
from tests.fake_backend import OTHER, SPEC

ALONE = (Side("BF16", BF16, SPEC.policy),)
LOADERS = "tests.fake_backend:load"
ROOT = Path(__file__).resolve().parents[3]
PATIENCE_S = 60.0  # two slow cores import torch in this time, whatever else they do


def job(prompt: str = "", backend_id: str = SPEC.id, **options) -> Job:
    return Job(backend_id, Request(prompt=prompt, **{"blocks": 2, **options}), ALONE)


def until(run: Run, kind: type[Event]) -> list[Event]:
    """The run's events up to the first of `kind`."""
    seen, deadline = [], time.monotonic() + PATIENCE_S
    for event in run.events(0.2):
        if event is not None:
            seen.append(event)
        if isinstance(event, kind):
            return seen
        assert time.monotonic() < deadline, f"no {kind.__name__} after {PATIENCE_S} s, only {seen}"
    raise AssertionError(f"no {kind.__name__} before the run ended: {seen}")


def finish(run: Run) -> list[Event]:
    return until(run, (Done, Failed))


def frames(events: list[Event]) -> np.ndarray:
    return np.concatenate([event.segment.frames for event in events if isinstance(event, Update)])


def process_of(events: list[Event]) -> int:
    """The id of the process that did the run."""
    done = events[-1]
    assert isinstance(done, Done), done
    return int(done.notes[1].split()[1])


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def worker():
    worker = Worker("cpu", LOADERS)
    yield worker
    worker.close()


def test_events_come_in_order(worker):
    run = worker.submit(job(blocks=3))
    events = finish(run)
    kinds = [type(event) for event in events if not isinstance(event, Progress)]
    assert kinds == [Loading, Loading, Update, Update, Update, Done]
    done = events[-1]
    assert (done.stopped, done.blocks, done.frames, done.kept_bytes) == (False, 3, 21, 0)
    assert 0 < done.freed_bytes < done.memory_bytes < done.peak_bytes * 1.05
    positions = [(event.block, event.step) for event in events if isinstance(event, Progress)]
    assert positions == sorted(positions)
    assert run.ended
    assert list(run.events(0.1)) == []


def test_says_what_it_computes_on(worker):
    finish(worker.submit(job()))
    assert worker.info.kind == "cpu"
    assert worker.info.threads == physical_cores()
    assert worker.info.memory_bytes > 1 << 28
    assert worker.info.reasons


def test_the_generator_stays_loaded_until_another_is_wanted(worker):
    def loads(backend_id):
        events = finish(worker.submit(job(backend_id=backend_id, blocks=1)))
        assert events[-1].notes[0] == f"made by {backend_id}"
        return sum(isinstance(event, Loading) for event in events)

    finish(worker.submit(job()))
    assert [loads(backend_id) for backend_id in (SPEC.id, OTHER, OTHER, SPEC.id)] == [0, 1, 0, 1]


def test_stop_ends_a_run_within_a_step_and_the_next_one_finds_the_device_free(worker):
    run = worker.submit(job("delay=0.3", blocks=400))
    until(run, Progress)
    pressed = time.monotonic()
    run.stop()
    # Waits in the queue while the first one ends; the fake refuses to open beside a cache that is still held.
    following = worker.submit(job())
    done = finish(run)[-1]
    assert done.stopped
    assert time.monotonic() - pressed < 0.3 + 0.5
    assert not finish(following)[-1].stopped


def test_queued_runs_keep_their_order_and_hear_their_place(worker):
    first, second, third, fourth = (worker.submit(job(prompt)) for prompt in ("delay=0.1", "", "", ""))
    assert [run.place for run in (first, second, third, fourth)] == [0, 1, 2, 3]
    third.stop()
    assert finish(third) == [Queued(2), Done(True, 0, 0, 0.0, 0)]
    ends = {}
    for name, run in (("second", second), ("fourth", fourth)):
        events = finish(run)
        ends[name] = time.monotonic()
        places = [event.place for event in events if isinstance(event, Queued)]
        # Places that were passed before anyone looked are not told.
        assert places == sorted(places, reverse=True)
        assert 1 in places
        assert run.place == 0
    assert first.ended
    assert ends["second"] <= ends["fourth"]


def test_two_sides_come_from_one_process(worker):
    events = finish(worker.submit(replace(job(blocks=2), sides=ALONE * 2)))
    updates = [event for event in events if isinstance(event, Update)]
    assert [(update.segment.index, update.side) for update in updates] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert np.array_equal(updates[2].segment.frames, updates[3].segment.frames)
    with pytest.raises(ValueError, match="at least one side"):
        replace(job(), sides=())


def test_steering_reaches_the_next_block_and_ends_with_the_run(worker):
    run = worker.submit(job("delay=0.05", blocks=400))
    assert until(run, Update)[-1].move is None
    run.steer(("w", "left"))
    moves = [until(run, Update)[-1].move for _ in range(3)]
    assert moves[-1] == CameraMove(("w", "left"))
    # Pressed and let go between two blocks: still one block's worth.
    run.steer(())
    until(run, Update)
    until(run, Update)
    run.steer(("s",))
    run.steer(())
    moves = [until(run, Update)[-1].move for _ in range(3)]
    assert moves.count(CameraMove(("s",))) == 1
    assert moves[-1] == CameraMove()
    with pytest.raises(ValueError, match="unknown camera key 'q'"):
        run.steer(("q",))
    run.stop()
    finish(run)
    run.steer(("w",))
    following = finish(worker.submit(job(blocks=2)))
    assert [event.move for event in following if isinstance(event, Update)] == [None, None]


def test_a_waiting_run_can_be_moved_in_the_queue(worker):
    busy, *waiting = (worker.submit(job(prompt)) for prompt in ("delay=0.2", "", "", ""))
    first, second, third = waiting
    third.move(1)
    assert [run.place for run in (third, first, second)] == [1, 2, 3]
    third.move(99)
    first.move(0)
    assert [run.place for run in (first, second, third)] == [1, 2, 3]
    busy.move(2)
    assert busy.place == 0
    second.move(1)
    for run in waiting:
        finish(run)
    assert all(run.ended for run in (busy, *waiting))


def test_a_video_is_gone_on_with_while_its_process_knows_it_and_made_again_when_not(worker):
    def frames_from(block, video="a video", **options):
        # Slow enough that no progress is replaced by newer before it is read.
        ordered = replace(job("delay=0.05", **options), video=video, first_block=block)
        events = finish(worker.submit(ordered))
        made = [event for event in events if isinstance(event, Update)]
        assert [update.segment.index for update in made] == list(range(block, options["blocks"]))
        return frames(events), events

    whole, _ = frames_from(0, blocks=6)
    beginning, events = frames_from(0, blocks=4)
    assert events[-1].kept_bytes > 0
    assert events[-1].freed_bytes == 0
    rest, events = frames_from(4, blocks=6)
    assert np.array_equal(np.concatenate([beginning, rest]), whole)
    assert {event.block for event in events if isinstance(event, Progress)} == {4, 5}
    # Another video has been made since.
    frames_from(0, blocks=1, video="another")
    again, events = frames_from(4, blocks=6)
    assert np.array_equal(again, rest)
    assert {event.block for event in events if isinstance(event, Progress)} == set(range(6))


def test_silence_is_heard_as_none(worker):
    run = worker.submit(job("delay=0.3", blocks=400))
    until(run, Progress)
    events = run.events(0.05)
    assert None in [next(events) for _ in range(4)]
    run.stop()
    finish(run)


@pytest.mark.parametrize(
    ("prompt", "backend_id", "words"),
    [
        ("raise=1", SPEC.id, "An error in block 2 of 2: RuntimeError: a made-up fault"),
        ("oom=1", SPEC.id, "Out of memory in block 2 of 2"),
        ("", "absent", "Fake cannot run here. Nothing was downloaded."),
        ("", "broken", "An error while loading broken: RuntimeError: broken weights of broken"),
    ],
)
def test_an_error_is_told_and_the_same_process_goes_on(worker, prompt, backend_id, words):
    before = process_of(finish(worker.submit(job())))
    failed = finish(worker.submit(job(prompt, backend_id)))[-1]
    assert isinstance(failed, Failed)
    assert failed.message.startswith(words)
    # A model that is not here is no fault: its sentence says it all.
    assert ("Traceback" in failed.detail) == (backend_id != "absent")
    assert process_of(finish(worker.submit(job()))) == before


def test_a_killed_process_fails_its_run_only_and_the_same_seed_still_makes_the_same_frames(worker):
    before = finish(worker.submit(job(seed=3)))
    killed, waiting = worker.submit(job("kill=1", seed=3)), worker.submit(job(seed=3))
    *_, update, failed = (event for event in finish(killed) if not isinstance(event, Progress))
    assert isinstance(update, Update)
    assert failed.message == (
        "The generator process was ended by the system (signal 9, often out of memory). "
        "What was made so far is kept; press Generate to try again."
    )
    after = finish(waiting)
    assert process_of(after) != process_of(before)
    assert np.array_equal(frames(after), frames(before))


def test_a_process_that_dies_between_runs_is_replaced_unnoticed(worker):
    pid = process_of(finish(worker.submit(job())))
    (process,) = (child for child in multiprocessing.active_children() if child.pid == pid)
    os.kill(pid, signal.SIGKILL)
    process.join(PATIENCE_S)
    assert process_of(finish(worker.submit(job()))) != pid


@pytest.fixture(scope="module")
def impatient():
    worker = Worker("cpu", LOADERS, silence_s=1.2)
    yield worker
    worker.close()


def test_a_process_that_stands_still_is_ended_and_another_started(impatient):
    before = finish(impatient.submit(job(seed=3)))
    run = impatient.submit(job("freeze=1", seed=3, blocks=5))
    events = finish(run)
    failed = events[-1]
    assert failed.message == (
        "The generator process did not answer for 1 s and was ended. "
        "What was made so far is kept; press Generate to try again."
    )
    assert np.array_equal(frames(events), frames(before)[:5]), "the block before it is kept"
    after = finish(impatient.submit(job(seed=3)))
    assert process_of(after) != process_of(before)
    assert np.array_equal(frames(after), frames(before))


def test_a_process_that_hangs_is_ended_once_its_run_is_stopped(impatient):
    before = process_of(finish(impatient.submit(job())))
    run, waiting = impatient.submit(job("hang=1", blocks=5)), impatient.submit(job())
    # It hangs after its last look at Stop.
    while (last := until(run, Progress)[-1]) and (last.block, last.step) != (1, 3):
        pass
    run.stop()
    assert finish(run)[-1].message.startswith("The generator process did not answer for ")
    assert process_of(finish(waiting)) != before


def test_a_process_that_stands_still_between_runs_is_replaced(impatient):
    pid = process_of(finish(impatient.submit(job())))
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + PATIENCE_S
    while alive(pid):
        assert time.monotonic() < deadline, "it stands there for ever"
        time.sleep(0.05)
    assert process_of(finish(impatient.submit(job()))) != pid


def test_a_long_step_is_no_silence(impatient):
    pid = process_of(finish(impatient.submit(job())))
    run = impatient.submit(job("delay=1.4", blocks=400))
    until(run, Update)
    # Nor is a Stop that has to wait for one as long as those before it.
    run.stop()
    assert finish(run)[-1].stopped
    assert process_of(finish(impatient.submit(job()))) == pid


def test_ctrl_c_is_left_to_the_page(worker):
    pid = process_of(finish(worker.submit(job())))
    run = worker.submit(job("delay=0.05"))
    until(run, Progress)
    os.kill(pid, signal.SIGINT)
    assert process_of(finish(run)) == pid


def test_a_run_nobody_reads_is_stopped_and_its_frames_are_bounded(worker, monkeypatch):
    monkeypatch.setattr(jobs, "UNREAD_BYTES", 40 << 20)
    run = worker.submit(job("big=1", blocks=400))
    assert not finish(worker.submit(job()))[-1].stopped
    assert run.ended
    events = list(run.events(0))
    assert events[-1].stopped
    assert frames(events).nbytes < 200 << 20


def test_closing_leaves_no_process_and_ends_every_run():
    worker = Worker("cpu", LOADERS)
    worker.start()
    worker.start()
    pid = process_of(finish(worker.submit(job())))
    running, waiting = worker.submit(job("delay=0.3", blocks=400)), worker.submit(job())
    until(running, Progress)
    worker.close()
    worker.close()
    for run in (running, waiting):
        assert finish(run)[-1].message.startswith("The generator was closed before the end.")
    assert not alive(pid)
    assert pid not in [child.pid for child in multiprocessing.active_children()]
    with pytest.raises(RuntimeError, match="closed"):
        worker.submit(job())


def test_stop_while_the_process_is_starting_does_not_wait_for_it():
    worker = Worker("cpu", LOADERS)
    run = worker.submit(job())
    run.stop()
    assert finish(run) == [Loading("Starting the generator process."), Done(True, 0, 0, 0.0, 0)]
    worker.close()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_here_is_told():
    worker = Worker("cuda", LOADERS)
    failed = finish(worker.submit(job()))[-1]
    worker.close()
    assert "finds no GPU for device 'cuda'; use auto or cpu" in failed.message


PAGE = """
import os, signal, sys
from backends.base import Request
from backends.events import Progress
from backends.runtime.worker import Job, Side, Worker
from qvg.config import BF16
from qvg.policy import CachePolicy

if __name__ == "__main__":
    worker = Worker("cpu", "tests.fake_backend:load")
    side = Side("BF16", BF16, CachePolicy(every=2))
    run = worker.submit(Job("fake", Request(prompt="delay=0.5", blocks=400), (side,)))
    for event in run.events(60):
        if isinstance(event, Progress):
            break
    assert "torch" not in sys.modules, "the page has loaded torch"
    print(worker._process.process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
def test_a_page_that_dies_takes_its_busy_process_along(tmp_path):
    script = tmp_path / "page.py"
    script.write_text(PAGE)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    page = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=90
    )
    assert page.returncode == -signal.SIGKILL, page.stderr
    pid, deadline = int(page.stdout), time.monotonic() + 5
    while alive(pid):
        assert time.monotonic() < deadline, "the process outlives its page"
        time.sleep(0.05)


# A program that is run again by the process it starts would start another one.
PROGRAM = """
import os
print("ran", flush=True)
from backends.runtime import generator_process, worker
from tests.backends.runtime import says_hello
generator_process.main = says_hello.main
process = worker._launch("cpu", LOADERS)
print(process.pipe.recv(), flush=True)
process.end()
""".replace("LOADERS", repr(LOADERS))
# As a notebook does by `%cd`: its path is relative, and what is imported already remembers the old folder.
MOVES = f"import multiprocessing.process, os; os.chdir({str(ROOT)!r})"


@pytest.mark.parametrize("way", ["file", "command", "standard input", "interactive", "moved"])
def test_the_process_does_not_run_the_program_again(tmp_path, way):
    file = tmp_path / "program.py"
    file.write_text(PROGRAM)
    arguments, typed, path = {
        "file": ([str(file)], "", str(ROOT)),
        "command": (["-c", PROGRAM], "", str(ROOT)),
        "standard input": (["-"], PROGRAM, str(ROOT)),
        "interactive": (["-i", str(file)], "", str(ROOT)),
        "moved": (["-c", f"{MOVES}\n{PROGRAM}"], "", ""),
    }[way]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        [sys.executable, *arguments],
        cwd=tmp_path,
        env={**environment, **({"PYTHONPATH": path} if path else {})},
        input=typed,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert ran.stdout.split("\n")[:2] == ["ran", "hello"], ran.stderr
    assert ran.stdout.count("ran") == 1
    assert "Traceback" not in ran.stderr


def test_a_notebook_kernel_starts_the_process():
    manager = pytest.importorskip("jupyter_client.manager")
    pytest.importorskip("ipykernel")
    said = []
    with manager.run_kernel(cwd=str(ROOT.parent)) as kernel:
        reply = kernel.execute_interactive(
            f"%cd -q {ROOT}\n{PROGRAM}",
            timeout=PATIENCE_S,
            output_hook=lambda message: said.append(message["content"].get("text", "")),
        )
    assert reply["content"]["status"] == "ok", reply
    assert "".join(said).split("\n")[:2] == ["ran", "hello"]
