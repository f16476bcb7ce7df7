"""Kernel warm-up: kernels compiled before a video needs them, and kept on disk.

The first use of a kernel takes a second or more. A job's launches are found without a GPU, by the generator's
own `launches` on tensors without memory. On a GPU that is here they are compiled in threads while the model
is read from disk, since compilers release the GIL; for a GPU that is lent only later, in a separate process.
A kernel that cannot be compiled in advance is compiled, or replaced, at its launch.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from backends import registry
from backends.memory_plan import codec_for
from backends.runtime.hardware import not_writable, physical_cores
from backends.runtime.jobs import Job, Side
from qvg.config import PRESETS

if TYPE_CHECKING:
    import torch

    from qvg.ops.ahead import Compiled, Launch
    from qvg.ops.card import Card

PRESET = "QVG INT2"  # the page's default
MOST_THREADS = 8
LOOK_S = 0.25  # interval at which a job that waits for kernels is checked for Stop
LOWEST_PRIORITY = 19  # nice
OnStatus = Callable[[str], None]
_log = logging.getLogger(__name__)


class Use(NamedTuple):
    """The settings that determine which kernels a job launches."""

    backend_id: str
    sides: tuple[Side, ...]
    mode: str = ""

    @classmethod
    def of(cls, job: Job) -> Use:
        return cls(job.backend_id, job.sides, job.request.mode)

    @property
    def name(self) -> str:
        """Returns the presets in words, such as `QVG INT2 and BF16`."""
        spec = registry.find(self.backend_id) if self.backend_id in registry.IDS else None
        known = {codec_for(spec, name) if spec else config: name for name, config in PRESETS.items()}
        names = dict.fromkeys(known.get(side.codec, "this KV cache") for side in self.sides)
        return " and ".join(names)


def usual(backend_id: str) -> Use:
    """Returns the use of a job with all defaults."""
    spec = registry.find(backend_id)
    return Use(backend_id, (Side(PRESET, codec_for(spec, PRESET), spec.policy),))


def possible() -> bool:
    """Returns whether kernels can be compiled here at all."""
    return find_spec("triton") is not None and os.environ.get("TRITON_INTERPRET") != "1"


def cache_folder() -> Path:
    """Returns the folder of Triton's compiled kernels."""
    if named := os.environ.get("TRITON_CACHE_DIR"):
        return Path(named)
    return Path(os.environ.get("TRITON_HOME") or os.path.expanduser("~/")) / ".triton" / "cache"


def keep_kernels(outputs: Path) -> None:
    """Sets Triton's cache folder beside the videos if its own cannot be written to.

    If `outputs` cannot be written to either, kernels are kept until the machine restarts, in a folder that
    nobody else can write to: its content is executed.
    """
    if not not_writable(cache_folder()):
        return
    folder = outputs.absolute() / ".triton"
    if not_writable(folder):
        folder = Path(tempfile.mkdtemp(prefix="qvg-studio-kernels-"))
    os.environ["TRITON_CACHE_DIR"] = str(folder)


def launches(use: Use, card: Card) -> list[Launch]:
    """Returns a job's launches on `card`, each once; nothing for a generator without `launches`."""
    name = f"backends.{use.backend_id}.launches"
    if use.backend_id not in registry.IDS or find_spec(name) is None:
        return []
    of, described = importlib.import_module(name).launches, registry.find(use.backend_id)
    found: dict[Launch, None] = {}
    for side in use.sides:
        found |= of(described, side.codec, side.policy, card, use.mode)
    return list(found)


class Warmup:
    """The kernels of one job, compiled in the background on the card that is here.

    Several threads compile. Launches of one kernel go to one thread, because most of them give the same
    binary.
    """

    def __init__(self, use: Use, device: torch.device) -> None:
        """Starts compiling and returns at once. Does nothing on anything but a GPU."""
        self._name = use.name
        self._problems: list[str] = []
        self._done = self._total = 0
        self._stopped = False
        self._futures: list[Future[None]] = []
        self._pool = ThreadPoolExecutor(max(1, min(MOST_THREADS, physical_cores())), "compile")
        if device.type == "cuda" and possible():
            self._futures.append(self._pool.submit(self._begin, use, device))

    def __enter__(self) -> Warmup:
        return self

    def __exit__(self, *_: object) -> None:
        """Cancels compilations that have not started."""
        self._stopped = True
        self._pool.shutdown(wait=False, cancel_futures=True)

    def wait(self, on_status: OnStatus) -> None:
        """Waits until all are compiled, reporting how many are. Raises the errors of `on_status`."""
        while running := [future for future in tuple(self._futures) if not future.done()]:
            if self._total:
                count = min(self._done + 1, self._total)
                on_status(f"Compiling kernels for {self._name} ({count} of {self._total}).")
            wait(running, LOOK_S, "FIRST_COMPLETED")
        if self._problems:
            _log.warning(
                "%d kernels were not compiled ahead; the first: %s", len(self._problems), self._problems[0]
            )

    def _begin(self, use: Use, device: torch.device) -> None:
        from qvg.ops.card import card_of

        card = card_of(device)
        try:
            found = [launch for launch in launches(use, card) if (launch, card.capability) not in _ready]
        except Exception as error:  # any fault will show, as a sentence, when the job uses the kernel
            self._problems.append(_words(error))
            return
        groups = _by_kernel(found)
        self._total = len(found)
        for group in groups:
            if not self._stopped:
                with suppress(RuntimeError):  # the pool was shut down meanwhile
                    self._futures.append(self._pool.submit(self._compile, group, card.capability))

    def _compile(self, group: Sequence[Launch], capability: tuple[int, int]) -> None:
        for launch in group:
            if self._stopped:
                return
            _, problem = compile_one(launch, capability)
            if problem:
                self._problems.append(problem)
            self._done += 1


_ready: set[tuple[Launch, tuple[int, int]]] = set()  # compiled in this process


def compile_one(launch: Launch, capability: tuple[int, int]) -> tuple[Compiled | None, str]:
    """Compiles one kernel. Returns it, or None and the reason in words."""
    from qvg.ops.ahead import compile_for

    try:
        compiled = compile_for(launch, capability)
    except Exception as error:  # compilers have error classes of their own
        return None, f"{launch.name}: {_words(error)}"
    _ready.add((launch, capability))
    return compiled, ""


def compiled_for(card: str, uses: Iterable[Use] = ()) -> tuple[list[Compiled], list[str]]:
    """Compiles for `card`, such as sm_120 or 12.0, which need not be here, one kernel after another.

    `uses` defaults to those of every generator. Returns the different kernels, and problems in words. Raises
    ValueError for an unknown card.
    """
    from qvg.ops.card import kind_of_card

    capability = capability_of(card)
    if not possible():
        return [], ["Triton is not installed here, or interprets kernels: none was compiled."]
    found: dict[Launch, None] = {}
    problems = []
    for use in tuple(uses) or tuple(map(usual, registry.IDS)):
        try:
            found |= dict.fromkeys(launches(use, kind_of_card(capability)))
        except Exception as error:  # one use fails, and the others are still compiled
            problems.append(f"{use.name} of {use.backend_id}: {_words(error)}")
    compiled: dict[str, Compiled] = {}
    for launch in found:
        one, problem = compile_one(launch, capability)
        if one is not None:
            compiled[one.key] = one
        else:
            problems.append(problem)
    return list(compiled.values()), problems


def capability_of(card: str) -> tuple[int, int]:
    """Returns the capability, such as (12, 0) for sm_120 or 12.0. Raises ValueError."""
    digits = card.lower().removeprefix("sm_").replace(".", "").rstrip("af")
    if not digits.isdigit() or len(digits) < 2:
        raise ValueError(f"{card!r} is no compute capability: write it as sm_120, or as 12.0.")
    return int(digits[:-1]), int(digits[-1])


def start_process(uses: Sequence[Use], cards: Sequence[str]) -> subprocess.Popen[bytes]:
    """Starts a process that compiles for `cards`, which need not be here, at the lowest priority.

    It ends by itself; its exit code is the number of kernels that could not be compiled, at most 100. Raises
    OSError.
    """
    command = [sys.executable, "-m", "backends.runtime.warmup", *cards]
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).resolve().parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin:
        process.stdin.write(_written(uses).encode())
    return process


def _written(uses: Iterable[Use]) -> str:
    """Returns as JSON the fields of `uses` that kernels depend on."""
    return json.dumps(
        [
            [
                use.backend_id,
                use.mode,
                [[side.name, _fields(side.codec), _fields(side.policy)] for side in use.sides],
            ]
            for use in uses
        ]
    )


def _parsed(text: str) -> tuple[Use, ...]:
    """Returns the uses that `_written` wrote."""
    return tuple(
        Use(
            backend_id,
            tuple(Side(name, _config(codec), _config(policy)) for name, codec, policy in sides),
            mode,
        )
        for backend_id, mode, sides in json.loads(text)
    )


def _fields(config: Any) -> dict[str, Any]:
    """Returns a config, and configs within it, by the names of their classes and fields."""
    kind = type(config)
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    return {
        "class": f"{kind.__module__}:{kind.__qualname__}",
        "fields": {name: _fields(x) if dataclasses.is_dataclass(x) else x for name, x in values.items()},
    }


def _config(written: dict[str, Any]) -> Any:
    module, _, name = written["class"].partition(":")
    values = {key: _config(x) if isinstance(x, dict) else x for key, x in written["fields"].items()}
    return getattr(importlib.import_module(module), name)(**values)


def _by_kernel(found: Iterable[Launch]) -> list[list[Launch]]:
    groups: dict[str, list[Launch]] = {}
    for launch in found:
        groups.setdefault(launch.name, []).append(launch)
    return list(groups.values())


def _words(error: Exception) -> str:
    words = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def main() -> None:
    if hasattr(os, "nice"):
        os.nice(LOWEST_PRIORITY)
    uses = _parsed(sys.stdin.read())
    problems = 0
    for card in sys.argv[1:]:
        problems += len(compiled_for(card, uses)[1])
    raise SystemExit(min(problems, 100))


if __name__ == "__main__":
    main()
