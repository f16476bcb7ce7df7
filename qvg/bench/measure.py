"""Timing of calls, the rate of a plain copy, and the description of a machine and its software."""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

ROOT = Path(__file__).resolve().parents[2]
# Of the checkout; of an installed library, beside which there are no assets, of the current folder.
ASSETS = (ROOT if (ROOT / "assets").is_dir() else Path()) / "assets" / "bench"
Row = dict[str, Any]
Call = Callable[[], object]


class Timing(NamedTuple):
    # On a GPU the device's time, the launches queued before; on a CPU the wall time, or one thread's own.
    ms: float
    wall_ms: float  # a call in a row of calls, launching included


def timed(calls: Sequence[Call], device: torch.device, seconds: float = 0.5) -> Timing:
    """Returns the median time of a call. `calls` do the same on different memory, to defeat caches."""
    return alternating(
        {str(number): call for number, call in enumerate(calls)}, device, seconds, pooled=True
    )[""]


def alternating(
    calls: Mapping[str, Call], device: torch.device, seconds: float = 2.0, pooled: bool = False
) -> dict[str, Timing]:
    """Returns the median time of each call. They take turns: a card that slows down slows all of them.

    `pooled`: the times of all calls are one call's, named "".
    """
    for call in calls.values():
        call()
    _wait(device)
    launch, whole = {}, {}
    for name, call in calls.items():
        began = time.perf_counter()
        call()
        launch[name] = time.perf_counter() - began
        _wait(device)
        whole[name] = time.perf_counter() - began
    rounds = int(min(50, max(5 if device.type == "cuda" else 1, seconds / max(sum(whole.values()), 1e-6))))
    marks: dict[str, list[Any]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            marks[name].append(_once(call, device, launch[name]))
    _wait(device)
    took = {name: [_elapsed(*pair) for pair in pairs] for name, pairs in marks.items()}
    walls = {}
    for name, call in calls.items():
        times = rounds if whole[name] < 0.02 else 2  # launching is nothing then
        began = time.perf_counter()
        for _ in range(times):
            call()
        _wait(device)
        walls[name] = 1e3 * (time.perf_counter() - began) / times
    if pooled:
        every = [ms for times in took.values() for ms in times]
        return {"": Timing(median(every), median(walls.values()))}
    return {name: Timing(median(times), walls[name]) for name, times in took.items()}


def _once(call: Call, device: torch.device, launch: float) -> tuple[Any, Any]:
    if device.type != "cuda":
        # One thread's own time: other programs on the machine do not count.
        clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
        began = clock()
        call()
        return began, clock()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    # The device is kept busy until everything is queued behind it. Two cycles a nanosecond, generously.
    torch.cuda._sleep(int((1.5 * launch + 5e-5) * 2e9))
    begin.record()
    call()
    end.record()
    return begin, end


def _elapsed(begin: Any, end: Any) -> float:
    return 1e3 * (end - begin) if isinstance(begin, float) else begin.elapsed_time(end)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def copy_rate(device: torch.device) -> float:
    """GB/s of a plain copy, bytes read and written, of more than any cache holds."""
    size = 2 << 30 if device.type == "cuda" else 128 << 20
    a, b = (torch.empty(size, dtype=torch.uint8, device=device).random_(0, 255) for _ in range(2))
    return 2 * size / timed([lambda: b.copy_(a)], device).ms / 1e6


def extra_bytes(call: Call, device: torch.device) -> int | None:
    """Returns the bytes that a call allocates at its peak; None on a CPU, where they are not counted."""
    if device.type != "cuda":
        return None
    _wait(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    call()
    _wait(device)
    return torch.cuda.max_memory_allocated(device) - before


def describe(device: torch.device, commit: str | None) -> Row:
    """Returns the machine, versions, date and commit, for the head of a result."""
    return {
        "card": _card(device),
        "torch": torch.__version__,
        "triton": import_module("triton").__version__ if find_spec("triton") else "none",
        "date": datetime.date.today().isoformat(),
        "commit": commit or _commit(),
    }


def _card(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    threads = torch.get_num_threads()
    return f"{names[0] if names else platform.machine()}, {threads} thread{'s' * (threads > 1)}"


def _commit() -> str:
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def common_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments that all measurements have."""
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, help="of the CPU; every core by default")
    parser.add_argument("--commit", help="what to write down where this is no git checkout")
    parser.add_argument(
        "--json",
        nargs="?",
        type=Path,
        const=Path(),
        metavar="FILE",
        help="write the result there, or under assets/bench by kind and card",
    )


def start(options: argparse.Namespace) -> torch.device:
    """Sets the threads and returns the device to measure on."""
    if options.threads:
        torch.set_num_threads(options.threads)
    return torch.device(options.device)


def finish(result: Row, path: Path | None) -> None:
    """Prints the result as one line of JSON, and writes it to `path` (None: nowhere)."""
    keep(result, path)
    print(json.dumps(_rounded(result)))


def keep(result: Row, path: Path | None) -> None:
    """Writes the result so far, so that an interrupted run is not lost."""
    if path == Path():
        path = usual_path(result["kind"], result["card"])
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(_rounded(result)) + "\n")


def usual_path(kind: str, card: str) -> Path:
    """Returns a path such as assets/bench/ops-nvidia-h200.json."""
    return ASSETS / (re.sub(r"[^a-z0-9]+", "-", f"{kind}-{card}".lower()).strip("-") + ".json")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
