"""Peak memory of a run: of its process on a CPU, of torch's allocator on a GPU."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_STATM = Path("/proc/self/statm")
_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")
_RESET_HIGH_WATER = "5"  # proc(5): sets VmHWM to the current resident size


class PeakMemory:
    """High-water mark since construction: of torch's allocator on a GPU, of the resident process on a CPU.

    If the kernel cannot reset the process's mark, it is the mark since the process started.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            import torch

            torch.cuda.reset_peak_memory_stats(device)
        else:
            with suppress(OSError):
                _CLEAR_REFS.write_text(_RESET_HIGH_WATER)

    def read(self) -> int:
        """Returns bytes; 0 if the system does not report them."""
        if self._device.type == "cuda":
            import torch

            return torch.cuda.max_memory_allocated(self._device)
        with suppress(OSError):
            for line in _STATUS.read_text().splitlines():
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
        return _lifetime_peak()


def memory_now(device: torch.device) -> int:
    """Returns bytes of torch's allocator on a GPU, else of the resident process; 0 if unknown."""
    if device.type == "cuda":
        import torch

        return torch.cuda.memory_allocated(device)
    with suppress(OSError):
        pages = _STATM.read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    return 0


def _lifetime_peak() -> int:
    try:
        import resource
    except ImportError:  # not a Unix
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
