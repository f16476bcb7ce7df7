"""Triton's CPU interpreter with BF16 as a GPU has it.

The interpreter keeps BF16 as 16-bit patterns: products multiply the patterns, whole numbers become patterns,
and casting cuts the fraction off where hardware rounds to nearest even.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch


def mend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the test is over, products of BF16 are products and casts to BF16 round."""
    import triton.language as tl
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    dot, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def create_dot(self: Any, a: Any, b: Any, d: Any, *options: Any) -> Any:
        if a.dtype.scalar != tl.bfloat16:
            return dot(self, a, b, d, *options)
        # torch's product keeps to the threads it is given; numpy's fights over a busy machine's cores.
        left, right = (torch.from_numpy(widened(each.data)) for each in (a, b))
        return TensorHandle((left @ right).numpy() + d.data, d.dtype.scalar)

    def cast_impl(self: Any, src: Any, dst_type: Any) -> Any:
        if dst_type.scalar == tl.bfloat16 and src.dtype.scalar != tl.bfloat16:
            return TensorHandle(rounded(src.data), tl.bfloat16)
        return cast(self, src, dst_type)

    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)
    monkeypatch.setattr(InterpreterBuilder, "cast_impl", cast_impl)


def widened(patterns: np.ndarray) -> np.ndarray:
    """fp32 of BF16 patterns."""
    return (patterns.astype(np.uint32) << 16).view(np.float32)


def rounded(values: np.ndarray) -> np.ndarray:
    """BF16 patterns of values, to nearest even; NaN stays NaN."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    nearest = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FC0), nearest).astype(np.uint16)
