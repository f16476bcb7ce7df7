"""Properties of the device a worker computes on, as the page shows them. Only `inspect` loads torch."""

from __future__ import annotations

import os
import platform
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

HEAD_DIM = 128  # of every generator here; the choice of attention depends on it
_CPUS = Path("/sys/devices/system/cpu")
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A device, and the choices made for it, with their reasons."""

    name: str
    kind: Literal["cpu", "cuda"]
    memory_bytes: int  # the GPU's, or the machine's (or container's) RAM
    threads: int  # CPU threads torch uses
    dtype: str  # of decoded spans and of attention, such as "bfloat16"
    attention: str
    reasons: tuple[str, ...]


def choose(device: str) -> torch.device:
    """Returns the torch device: `auto` is the first GPU, else the CPU.

    Raises ValueError for a missing GPU.
    """
    import torch

    if device == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    chosen = torch.device(device)
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"device {device!r} is neither cpu nor cuda; use auto, cpu or cuda")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"torch {torch.__version__} finds no GPU for device {device!r}; use auto or cpu")
    return torch.device("cuda", chosen.index or 0) if chosen.type == "cuda" else chosen


def inspect(device: torch.device) -> DeviceInfo:
    """Returns a description of `device`, which this process computes on."""
    import torch

    from qvg import choose

    choice = choose(device, HEAD_DIM)
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        name, memory = properties.name, properties.total_memory
    else:
        name, memory = _cpu_name(), ram_bytes()
    return DeviceInfo(
        name=name,
        kind="cuda" if device.type == "cuda" else "cpu",
        memory_bytes=memory,
        threads=torch.get_num_threads(),
        dtype=str(choice.dtype).removeprefix("torch."),
        attention=choice.attention,
        reasons=(choice.reason,),
    )


def physical_cores() -> int:
    """Returns the cores this process may use: one per hyper-threaded core, within a container's CPU quota."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    siblings = {_read(_CPUS / f"cpu{cpu}/topology/thread_siblings_list") or str(cpu) for cpu in allowed}
    quota, _, period = _read(_CGROUP / "cpu.max").partition(" ")
    limit = -(-int(quota) // int(period)) if quota.isdigit() else len(siblings)
    return max(1, min(len(siblings), limit))


def not_writable(folder: Path) -> str:
    """Returns why no file can be written to `folder`, which need not exist yet; empty if one can."""
    at = folder.absolute()
    while not os.path.lexists(at) and at != at.parent:
        at = at.parent
    if not at.is_dir():
        return f"{at} is not a folder"
    try:
        # Written for real: permissions say nothing of a full or read-only disk.
        with tempfile.TemporaryFile(dir=at):
            return ""
    except OSError as error:
        return f"{at} cannot be written to ({error.strerror})"


def ram_bytes() -> int:
    """Returns the machine's memory, or the part its container may use; 0 if the system does not report it."""
    if not hasattr(os, "sysconf"):
        return 0
    ram = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = _read(_CGROUP / "memory.max")
    return min(ram, int(limit)) if limit.isdigit() else ram


def _cpu_name() -> str:
    for line in _read(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
