"""A report on this machine: what is installed, what works, and what will be slow, in sentences and as data.

Each part is checked by itself, and one that fails becomes a sentence. Nothing is changed, and no page is
needed.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backends import registry
from backends.base import Request
from backends.events import Done, Failed, Update
from backends.hub import artifacts, downloads
from backends.memory_plan import codec_for, plan
from backends.registry import Entry
from backends.runtime import hardware, warmup
from backends.runtime.hardware import DeviceInfo
from backends.runtime.jobs import Side
from backends.runtime.warmup import PRESET
from backends.sizes import file_size, memory_size
from qvg.config import PRESETS, BF16Config
from qvg.policy import CachePolicy

if TYPE_CHECKING:
    import torch

PACKAGES = ("torch", "triton", "gradio", "diffusers", "transformers", "safetensors", "av")
DRIVER = Path("/proc/driver/nvidia/version")
MEMORY = Path("/proc/meminfo")
LARGE_BYTES = 4 << 30  # a model larger than this takes minutes per block on a CPU
WAIT_S = 300.0  # for a report from another process: a GPU may have to compile every kernel first

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of the report. `works` is False if the program cannot do its main job."""

    id: str
    title: str
    sentences: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)  # values that JSON can represent
    works: bool = True


class Place:
    """The machine that is checked. Each of its facts is looked up once, by the first part that needs it."""

    def __init__(self, device: str, outputs: Path) -> None:
        self.name, self.outputs = device, outputs

    @cached_property
    def device(self) -> torch.device:
        """Returns the device. Raises ValueError for a GPU that is not here, ImportError without torch."""
        import torch

        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(hardware.physical_cores())
        return hardware.choose(self.name)

    @cached_property
    def info(self) -> DeviceInfo:
        return hardware.inspect(self.device)


def parts(device: str, outputs: Path, card: str = "") -> Iterator[Part]:
    """Yields the report part by part.

    `device` is auto, cpu or cuda; `outputs` is the folder of videos; `card`, such as sm_120, is a GPU
    architecture to compile the kernels for, whether it is here or not.
    """
    place = Place(device, outputs)
    looks: list[tuple[str, str, Callable[[], Part]]] = [
        ("software", "Software", _software),
        ("device", "Device", lambda: _device(place)),
        ("attention", "Attention", lambda: _attention(place)),
        ("kernels", "Kernels", lambda: _kernels(place)),
        ("memory", "Memory and disk", lambda: _memory(place)),
        ("outputs", "Videos", lambda: _outputs(place)),
        ("frame", "A first video", lambda: _frame(place)),
        ("generators", "Generators", lambda: _generators(place)),
    ]
    if card:
        looks.insert(4, ("card", f"Kernels for {card}", lambda: _card(card)))
    for name, title, look in looks:
        try:
            yield look()
        except Exception as error:  # a broken installation may raise anything
            _log.debug("%s could not be looked at", name, exc_info=True)
            yield Part(
                name, title, (_failed(title, error),), works=name not in ("software", "device", "frame")
            )


def run(device: str, outputs: Path, card: str = "", as_json: bool = False) -> int:
    """Prints the report. Returns the exit code: 1 where the main job cannot be done, else 0."""
    found: list[Part] = []
    for part in parts(device, outputs, card):
        found.append(part)
        if not as_json:
            print("\n".join((part.title, *(f"  {sentence}" for sentence in part.sentences))), flush=True)
    works = all(part.works for part in found)
    if as_json:
        print(json.dumps(as_data(found), indent=2))
    else:
        print("It works here." if works else "It does not work here: see above.")
    return 0 if works else 1


def as_data(found: list[Part]) -> dict[str, Any]:
    """Returns the report as data for JSON."""
    return {
        "works": all(part.works for part in found),
        "parts": {
            part.id: {
                "title": part.title, "works": part.works, "sentences": list(part.sentences), **part.facts,
            }
            for part in found
        },
    }  # fmt: skip


def elsewhere(device: str, outputs: Path) -> list[Part]:
    """Returns the parts of a report, without their facts, from a process of its own: the page loads no torch.

    If that process fails, its error is the only part.
    """
    command = [sys.executable, "-m", "backends.checkup", device, str(outputs)]
    root = Path(__file__).resolve().parents[1]
    try:
        ran = subprocess.run(
            command, cwd=root, capture_output=True, text=True, timeout=WAIT_S, stdin=subprocess.DEVNULL
        )
        report = json.loads(ran.stdout)
        return [
            Part(name, part["title"], tuple(part["sentences"]), works=part.get("works", True))
            for name, part in report["parts"].items()
        ]
    except subprocess.TimeoutExpired:
        problem = f"It took longer than {WAIT_S:.0f} s."
    except (OSError, ValueError, KeyError) as error:
        _log.warning("the report on this machine failed: %s", error)
        problem = "It could not be made here; python app.py --check says why."
    return [Part("report", "About this machine", (problem,))]


def _failed(title: str, error: Exception) -> str:
    words = " ".join(str(error).split())[:200].rstrip(".")
    return f"{title} cannot be looked at: {type(error).__name__}{': ' if words else ''}{words}."


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _software() -> Part:
    import torch

    found = {name: _version(name) for name in PACKAGES}
    cuda = torch.version.cuda or ""
    installed = ", ".join(f"{name} {number}" for name, number in found.items() if number)
    absent = [name for name, number in found.items() if not number and name != "triton"]
    sentences = [
        f"Python {platform.python_version()} on {platform.system()} {platform.machine()}; {installed}."
    ]
    sentences.append(f"torch is built for CUDA {cuda}." if cuda else "This torch is built for CPUs only.")
    if absent:
        sentences.append(
            f"Not installed: {', '.join(absent)}. Install them with pip install -r requirements.txt."
        )
    facts = {"python": platform.python_version(), "versions": found, "cuda": cuda}
    return Part("software", "Software", tuple(sentences), facts, works=not absent)


def _driver() -> str:
    """Returns the version of NVIDIA's driver; empty if there is none."""
    try:
        words = DRIVER.read_text().split()
        return next((word for word in words if word.replace(".", "").isdigit() and "." in word), "")
    except OSError:
        pass
    if (program := shutil.which("nvidia-smi")) is None:
        return ""
    command = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout.strip().partition("\n")[0] if ran.returncode == 0 else ""


def _device(place: Place) -> Part:
    import torch

    driver, info = _driver(), place.info
    facts: dict[str, Any] = {
        "name": info.name, "kind": info.kind, "memory_bytes": info.memory_bytes, "driver": driver,
    }  # fmt: skip
    sentences = [f"Computes on {info.name}, {memory_size(info.memory_bytes)}, in {info.dtype}."]
    if info.kind == "cuda":
        properties = torch.cuda.get_device_properties(place.device)
        capability = f"{properties.major}.{properties.minor}"
        shared = getattr(properties, "shared_memory_per_block_optin", 0)
        facts |= {"capability": capability, "shared_memory_per_block": shared}
        sentences.append(
            f"Compute capability {capability}, {shared:,} bytes of shared memory a block, driver "
            f"{driver or 'unknown'}."
        )
        known = torch.cuda.get_arch_list()
        if known and not any(_serves(each, (properties.major, properties.minor)) for each in known):
            sentences.append(
                f"This torch has no kernels for it (only {', '.join(known)}): install a newer torch, built "
                "for a newer CUDA."
            )
            return Part("device", "Device", tuple(sentences), facts, works=False)
    elif driver:
        sentences.append(
            f"There is an NVIDIA driver ({driver}), but this torch finds no GPU: install torch for CUDA "
            "(https://pytorch.org/get-started), and look at nvidia-smi."
            if place.name != "cpu"
            else f"There is an NVIDIA driver ({driver}), and --device cpu leaves its GPU alone."
        )
    else:
        sentences.append(f"No NVIDIA GPU was found; {info.threads} threads of the CPU compute.")
    return Part("device", "Device", tuple(sentences), facts)


def _serves(arch: str, capability: tuple[int, int]) -> bool:
    """Returns whether code for `arch`, such as sm_90 or compute_90, runs on a card of `capability`."""
    kind, _, number = arch.partition("_")
    digits = number.rstrip("af")
    if not digits.isdigit():
        return False
    built = divmod(int(digits), 10)
    if kind == "compute":
        return built <= capability
    return built[0] == capability[0] and built[1] <= capability[1]


def _attention(place: Place) -> Part:
    info = place.info
    facts = {"attention": info.attention, "dtype": info.dtype, "reasons": list(info.reasons)}
    sentences = [f"{info.attention} attends. {' '.join(_sentence(reason) for reason in info.reasons)}"]
    if info.kind == "cuda":
        from qvg.ops.eight_bit import supports

        why_not = supports(place.device, hardware.HEAD_DIM)
        sentences.append(f"{_sentence(why_not)}" if why_not else "8-bit attention can be chosen here.")
        facts["eight_bit"] = why_not or True
    return Part("attention", "Attention", tuple(sentences), facts)


def _sentence(words: str) -> str:
    return f"{words[:1].upper()}{words[1:].rstrip('.')}."


def _kernels(place: Place) -> Part:
    if place.device.type != "cuda":
        sentence = "Plain torch does their work on a CPU: nothing is compiled."
        return Part("kernels", "Kernels", (sentence,), {"checks": []})
    folder = warmup.cache_folder()
    problem = hardware.not_writable(folder)
    keeps = (
        f"Compiled kernels are not kept: {problem}. Set TRITON_CACHE_DIR to a folder that can be."
        if problem
        else f"Compiled kernels are kept in {folder}."
    )
    facts: dict[str, Any] = {"cache": str(folder), "cache_writable": not problem}
    if find_spec("triton") is None:
        sentence = "Triton is not installed: plain torch does their work on the GPU, many times slower."
        return Part("kernels", "Kernels", (sentence,), facts)
    from qvg.ops.kernels import refused
    from qvg.selfcheck import checks, preset_checks

    each = list(checks(place.device, (1, 613)))
    whole = list(preset_checks(place.device, PRESETS, hardware.HEAD_DIM))
    wrong = [check for check in (*each, *whole) if not check.passed]
    facts["checks"] = [
        {"name": check.name, "passed": check.passed, "error": _number(check.error), "limit": check.limit,
         "problem": check.problem}
        for check in (*each, *whole)
    ]  # fmt: skip
    facts["refused"] = refused()
    right = len(each) + len(whole) - len(wrong)
    sentences = [
        f"{right} of {len(each) + len(whole)} comparisons with plain torch agree: {len(each)} of kernels, "
        f"{len(whole)} of whole presets.",
        *(check.sentence for check in wrong),
        # Kernels that plain torch replaces agree with it trivially, and are slow.
        *refused(),
        keeps,
    ]
    quantized = [check for check in whole if not isinstance(PRESETS[check.name], BF16Config)]
    return Part("kernels", "Kernels", tuple(sentences), facts, works=any(check.passed for check in quantized))


def _number(value: float) -> float | None:
    return value if value == value else None  # JSON has no NaN


def _card(card: str) -> Part:
    title = f"Kernels for {card}"
    compiled, problems = warmup.compiled_for(card)
    facts = {
        "kernels": [{"name": each.kernel, "shared_memory": each.shared_bytes} for each in compiled],
        "problems": problems,
    }
    most = max((each.shared_bytes for each in compiled), default=0)
    sentences = [f"{len(compiled)} kernels were compiled; they take up to {most:,} bytes of shared memory."]
    return Part("card", title, (*sentences, *problems), facts)


def _memory(place: Place) -> Part:
    info = _meminfo()
    ram = hardware.ram_bytes()
    available, swap = min(info.get("MemAvailable", ram), ram), info.get("SwapTotal", 0)
    cache, own = downloads.cache_folder(), downloads.own_folder()
    free = {
        str(folder): _disk_free(folder) for folder in dict.fromkeys((cache, own, place.outputs.resolve()))
    }
    sentences = [
        f"{memory_size(ram)} of RAM, {memory_size(available)} of it free, and {memory_size(swap)} of swap.",
        *(f"{file_size(count)} are free on the disk of {folder}." for folder, count in free.items()),
    ]
    if own_weights := os.environ.get(artifacts.FOLDER):
        sentences.append(f"Models are looked for in {own_weights} first.")
    facts = {"ram_bytes": ram, "available_bytes": available, "swap_bytes": swap, "disk_free_bytes": free}
    return Part("memory", "Memory and disk", tuple(sentences), facts)


def _meminfo() -> dict[str, int]:
    """Returns bytes by name; empty on a system without /proc/meminfo."""
    try:
        lines = MEMORY.read_text().splitlines()
    except OSError:
        return {}
    words = [line.replace(":", " ").split() for line in lines]
    return {name: 1024 * int(count) for name, count, *_ in words if count.isdigit()}


def _existing(folder: Path) -> Path:
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _disk_free(folder: Path) -> int:
    return shutil.disk_usage(_existing(folder.resolve())).free


def _outputs(place: Place) -> Part:
    folder = place.outputs.resolve()
    problem = hardware.not_writable(folder)
    sentences = [
        f"Videos cannot be kept: {problem}. Choose another folder with --outputs."
        if problem
        else f"Videos are kept in {folder}."
    ]
    import av
    from av.codec import Codec

    try:
        Codec("libx264", "w")
        encodes = True
    except Exception:  # PyAV has an exception class for each of FFmpeg's errors
        encodes = False
    ffmpeg = av.library_versions.get("libavcodec", ())
    sentences.append(
        f"PyAV {av.__version__} brings FFmpeg (libavcodec {'.'.join(map(str, ffmpeg))}); "
        + ("H.264 can be written." if encodes else "it cannot write H.264: pip install --force-reinstall av.")
    )
    facts = {"folder": str(folder), "writable": not problem, "av": av.__version__, "h264": encodes}
    return Part("outputs", "Videos", tuple(sentences), facts, works=not problem and encodes)


def _frame(place: Place) -> Part:
    """Generates two blocks with Pocket World: the second one reads the first from its codes."""
    from backends.runtime.session import Session

    began = time.perf_counter()
    backend = registry.load("pocket", place.device, lambda text: None)
    loaded = time.perf_counter()
    side = Side(PRESET, codec_for(backend.spec, PRESET), CachePolicy(every=1))
    session = Session(backend, (side,), place.device)
    made = list(session.run(Request(prompt="a red box", blocks=2), lambda: False))
    last = made[-1]
    if isinstance(last, Failed):
        return Part("frame", "A first video", (last.message,), {"seconds": None}, works=False)
    frames = [event.segment.frames for event in made if isinstance(event, Update)]
    seconds = [event.block_ms / 1e3 for event in made if isinstance(event, Update)]
    flat = any(int(some.min()) == int(some.max()) for some in frames)
    works = isinstance(last, Done) and len(frames) == 2 and not flat
    sentence = (
        f"{backend.spec.title} made {sum(map(len, frames))} frames with {PRESET} in {sum(seconds):.1f} s, "
        f"after {loaded - began:.1f} s of loading."
        if works
        else f"{backend.spec.title} made no picture: its frames are all of one color."
    )
    facts = {"seconds": seconds, "loading_seconds": loaded - began}
    return Part("frame", "A first video", (sentence,), facts, works=works)


def _generators(place: Place) -> Part:
    sentences, facts = [], {}
    for entry in registry.entries():
        try:
            words, fact = _generator(entry, place.info)
        except Exception as error:  # one broken generator must not hide the others
            words, fact = _failed(entry.spec.title, error), {"problem": str(error)}
        sentences.append(words)
        facts[entry.spec.id] = fact
    return Part("generators", "Generators", tuple(sentences), {"generators": facts})


def _generator(entry: Entry, device: DeviceInfo) -> tuple[str, dict[str, Any]]:
    spec = entry.spec
    needed = [each for each in artifacts.of(spec.id) if not each.optional]
    absent = [each for each in needed if artifacts.locate(each) is None]
    lacking = sum(each.size for each in absent)
    foreseen = plan(spec, codec_for(spec, PRESET), spec.policy, spec.default_blocks, device)
    words = [f"{spec.title}: {entry.missing or 'its files are here and whole.'}"]
    if absent and (free := _disk_free(downloads.cache_folder())) < lacking:
        words.append(f"The disk has {file_size(free)} free, and {file_size(lacking)} are to come.")
    words.append(foreseen.sentence)
    slow = []
    if device.kind == "cpu" and spec.working_bytes >= LARGE_BYTES:
        slow.append("It is made for a GPU: on this CPU a block takes many minutes.")
    elif device.kind == "cuda" and spec.prompt_bytes > device.memory_bytes:
        slow.append("Its text encoder does not fit on the GPU: the CPU reads prompts, more slowly.")
    fact = {
        "present": entry.missing is None,
        "missing": [{"title": each.title, "bytes": each.size} for each in absent],
        "missing_bytes": lacking,
        "needs_bytes": foreseen.needs_bytes,
        "fits": foreseen.fits,
        "slow": slow,
    }
    return " ".join((*words, *slow)), fact


def main() -> None:
    device, outputs = sys.argv[1:]
    raise SystemExit(run(device, Path(outputs), as_json=True))


if __name__ == "__main__":
    main()
