"""Encoded tokens back to numbers, rotated on the way where that is asked for."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qvg.ops.kernels import or_reference, use_kernels
from qvg.ops.pack.reference import Code
from qvg.ops.reconstruct.reference import Fine, reconstruct_reference
from qvg.rope import Rope

__all__ = ["Fine", "reconstruct", "reconstruct_reference"]


def reconstruct(
    codes: Tensor,
    scales: Tensor,
    labels: Tensor,
    centroids: Tensor,
    code: Code,
    dtype: torch.dtype,
    start: int = 0,
    *,
    powers: Tensor | None = None,
    channels: Tensor | None = None,
    run: int | None = None,
    fine: Fine | None = None,
    rope: Rope | None = None,
    first_frame: int = 0,
    out: Tensor | None = None,
) -> Tensor:
    """See `reconstruct_reference`."""
    head_dim = centroids.shape[-1]
    encoded = (codes, scales, labels, centroids, code, dtype, start)
    rest: dict[str, Any] = {
        "powers": powers,
        "channels": channels,
        "run": run,
        "fine": fine,
        "rope": rope,
        "first_frame": first_frame,
        "out": out,
    }
    if use_kernels(codes, head_dim, head_dim // scales.shape[-1]) and start < labels.shape[-1]:
        from qvg.ops.reconstruct.triton import reconstruct as kernel

        return or_reference(
            lambda: kernel(*encoded, **rest),
            lambda: reconstruct_reference(*encoded, **rest),
        )
    return reconstruct_reference(*encoded, **rest)
