"""Which tensors the Triton kernels take; all others go through plain torch, on any device."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec

from torch import Tensor

from qvg.ops.ahead import notebook

DEVICES = ("cuda",)
HEAD_DIMS = (16, 32, 64, 128, 256)


def use_kernels(x: Tensor, head_dim: int, group: int = 1) -> bool:
    """Whether kernels run where x is, on heads of `head_dim` channels in groups of `group`."""
    return (
        (x.device.type in DEVICES or (x.is_meta and notebook.get() is not None))
        and head_dim in HEAD_DIMS
        and group & (group - 1) == 0
        and x.numel() > 0
        and _has_triton()
    )


@lru_cache(maxsize=1)
def _has_triton() -> bool:
    # torch for CUDA brings Triton on Linux and not everywhere else.
    return find_spec("triton") is not None
