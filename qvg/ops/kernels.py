"""Dispatch between Triton kernels and plain torch, which takes what kernels do not, on any device.

A kernel that this GPU, its driver or this installation cannot run is logged once, in a sentence; plain torch
does its work from then on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import TypeVar

from torch import Tensor

from qvg.ops.ahead import notebook
from qvg.ops.errors import KernelUnavailable

DEVICES = ("cuda",)
HEAD_DIMS = (16, 32, 64, 128, 256)

T = TypeVar("T")
_refused: dict[str, None] = {}
_log = logging.getLogger(__name__)


def use_kernels(x: Tensor, head_dim: int, group: int = 1) -> bool:
    """Returns whether kernels run on x's device, for heads of `head_dim` channels in groups of `group`."""
    return (
        (x.device.type in DEVICES or (x.is_meta and notebook.get() is not None))
        and head_dim in HEAD_DIMS
        and group & (group - 1) == 0
        and x.numel() > 0
        and _has_triton()
    )


def or_reference(kernel: Callable[[], T], reference: Callable[[], T]) -> T:
    """Returns the result of `kernel`, or of `reference` where one of its kernels cannot run here.

    `kernel` must not change its inputs before its last launch: `reference` starts again from them. Any other
    error, such as of memory, is raised.
    """
    try:
        return kernel()
    except KernelUnavailable as error:
        _refuse(str(error))
        return reference()


def refused() -> list[str]:
    """Returns a sentence for every kernel that plain torch replaces in this process."""
    return list(_refused)


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    # torch for CUDA brings Triton on Linux and not everywhere else.
    if find_spec("triton") is None:
        return False
    try:
        import_module("qvg.ops.triton")
    except (ImportError, OSError, AttributeError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        _refuse(f"Triton cannot be used here ({why}): plain torch does the work of all kernels, slower.")
        return False
    return True


def _refuse(sentence: str) -> None:
    if sentence not in _refused:
        _refused[sentence] = None
        _log.warning("%s", sentence)
