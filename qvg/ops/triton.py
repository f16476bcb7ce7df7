"""Code that the kernels share: launching, cleaning of input, E4M3 by its bits, random numbers from counters.

E4M3 is written and read as bytes: the arithmetic is the same on devices that have the type, on those that
lack it and under Triton's interpreter.
"""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor
from triton.errors import TritonError
from triton.runtime.errors import InterpreterError, OutOfResources

from qvg.ops.ahead import note, notebook
from qvg.ops.errors import KernelUnavailable

_compiled: dict[tuple[object, ...], Any] = {}


def launch(
    kernel: Any,
    grid: tuple[int, int, int],
    tensors: Sequence[Any],
    numbers: Sequence[int],
    constants: tuple[int | float | bool | str, ...],
    warps: int,
    stages: int | None = None,
) -> None:
    """Launches `kernel[grid](*tensors, *numbers, *constants, num_warps=warps)` with less work on the CPU.

    Triton inspects all arguments of every launch to find the compiled kernel. Here that follows from
    `constants`, strides among them, the types of `tensors` (or tensor descriptors, or None), and whether they
    begin at multiples of 16 bytes. `numbers` must be below 2 ** 31, and arguments that the kernel does not
    specialise. `stages` of loads are under way in a loop at once (None: Triton's choice).

    Inside `qvg.ops.ahead.noted` nothing is launched. Raises KernelUnavailable, before anything is written,
    where the kernel cannot be compiled or loaded here; that is tried once for arguments of a kind.
    """
    options = {"num_warps": warps} if stages is None else {"num_warps": warps, "num_stages": stages}
    launches = notebook.get()
    if launches is not None:
        note(launches, kernel, tensors, len(numbers), constants, options)
        return
    kinds = [
        (x.dtype, x.get_device(), x.data_ptr() % 16 == 0) if isinstance(x, Tensor) else _kind(x)
        for x in tensors
    ]
    key = (id(kernel), warps, stages, constants, *kinds)
    compiled = _compiled.get(key)
    if isinstance(compiled, KernelUnavailable):
        raise KernelUnavailable(*compiled.args)
    if compiled is not None:
        compiled[grid](*tensors, *numbers, *constants)
        return
    try:
        # The interpreter returns None: it has nothing to keep.
        _compiled[key] = kernel[grid](*tensors, *numbers, *constants, **options)
    except Exception as error:
        why = why_unavailable(error)
        if why is None:
            raise
        sentence = f"The kernel {name_of(kernel)} cannot run here ({why}): plain torch does its work, slower."
        _compiled[key] = KernelUnavailable(sentence)
        raise KernelUnavailable(sentence) from error


def name_of(kernel: Any) -> str:
    """Returns module and function of a kernel, such as qvg.ops.kmeans._assign."""
    function = getattr(kernel, "fn", kernel)
    return f"{function.__module__.removesuffix('.triton')}.{function.__name__}"


# Messages of the RuntimeErrors that Triton and the CUDA driver raise where a kernel cannot be built or
# loaded. Errors of memory, and of an earlier kernel, are not among them.
_CANNOT_BUILD = (
    "failed to find c compiler",
    "cannot find ptxas",
    "passmanager::run failed",
    "failed to translate module",
    "failed to load newly compiled",
    "active drivers",
    "no kernel image",
    "kernel image is invalid",
    "unsupported ptx version",
    "unsupported toolchain",
    "jit compilation failed",
    "ptx jit compiler library not found",
    "invalid device function",
    "named symbol not found",
    "too many resources requested",
    "operation not supported",
)


def why_unavailable(error: Exception) -> str | None:
    """Returns why a kernel cannot be launched here, in some words; None where `error` is of another kind."""
    if isinstance(error, OutOfResources):
        what = f"{error.required:,} of {error.name}" if error.name != "shared memory" else ""
        return f"it needs {what or f'{error.required:,} bytes of shared memory'}, the GPU has {error.limit:,}"
    if isinstance(error, InterpreterError):
        return None
    first = next(iter(str(error).strip().splitlines()), "")[:160].rstrip(".:")
    if isinstance(error, TritonError):
        return f"it cannot be compiled: {type(error).__name__}" + (f", {first}" if first else "")
    if isinstance(error, subprocess.CalledProcessError):
        return "Triton's launcher cannot be built: it needs a C compiler and Python's headers"
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return None
    if isinstance(error, (OSError, ImportError)):
        return f"Triton cannot build it: {first}"
    if isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _CANNOT_BUILD):
        return first
    return None


def _kind(x: Any) -> tuple[object, ...] | None:
    """Returns what a compiled kernel depends on of a tensor descriptor or None."""
    return None if x is None else (x.base.dtype, x.base.get_device(), *x.block_shape)


def tiles(count: int, size: int) -> int:
    """Returns how many tiles of `size` cover `count`; faster than triton.cdiv, which works in kernels too."""
    return -(-count // size)


def rows_contiguous(x: Tensor) -> Tensor:
    """Returns x, or a copy where the channels of a token are not contiguous."""
    return x if x.stride(-1) == 1 else x.contiguous()


@triton.jit
def token_rows(p_x, n, H, rows, s_b, s_h, s_s, D: tl.constexpr):
    """Pointers [len(rows), D] to the tokens `rows` of head `n` (counted through the batch)."""
    base = p_x + (n // H).to(tl.int64) * s_b + (n % H).to(tl.int64) * s_h
    return base + rows.to(tl.int64)[:, None] * s_s + tl.arange(0, D)[None, :]


@triton.jit
def load_tokens(p_x, p_limit, n, H, rows, S, s_b, s_h, s_s, D: tl.constexpr, CLEAN: tl.constexpr):
    """fp32 [len(rows), D], zero beyond S. With CLEAN, NaN is 0 and no magnitude is above the head's limit."""
    x = tl.load(token_rows(p_x, n, H, rows, s_b, s_h, s_s, D), mask=rows[:, None] < S, other=0.0)
    x = x.to(tl.float32)
    if CLEAN:
        limit = tl.load(p_limit + n)
        x = tl.where(x == x, x, 0.0)
        x = tl.minimum(tl.maximum(x, -limit), limit)
    return x


@triton.jit
def rounded(x):
    """Nearest whole number, ties to even, of fp32 magnitudes below 2 ** 22."""
    return (x + 12582912.0) - 12582912.0  # 1.5 * 2 ** 23 leaves no bits for a fraction


@triton.jit
def e4m3_bits(x):
    """int32 patterns of the nearest E4M3 numbers to fp32 x >= 0, at most that of 448."""
    x = tl.minimum(x, 448.0)
    bits = x.to(tl.int32, bitcast=True)
    normal = ((bits + 0x7FFFF + ((bits >> 20) & 1)) >> 20) - (120 << 3)
    small = rounded(x * 512.0).to(tl.int32)  # subnormals are whole multiples of 2 ** -9
    return tl.where(x < 0.015625, small, normal)


@triton.jit
def e4m3_value(bits):
    """fp32 of int32 E4M3 patterns, signs included."""
    # Exponent and mantissa in the place of fp32's, where only the bias differs, by 120; the sign, which fills
    # what is above them, is left in its own place alone.
    return (((bits << 24) >> 4) & -0x78100000).to(tl.float32, bitcast=True) * 1.329227995784916e36


@triton.jit
def inverse_or_zero(x):
    """1 / x rounded to nearest, and 0 for 0."""
    positive = x > 0
    return tl.where(
        positive, tl.math.div_rn(tl.full(x.shape, 1.0, tl.float32), tl.where(positive, x, 1.0)), 0.0
    )


@triton.jit
def hashed(counter, seed):
    """uint32 that look random: `reference.hashed` of k-means, bit for bit."""
    h = counter.to(tl.uint32) ^ (seed.to(tl.uint32) * 0x9E3779B9)
    h = (h ^ (h >> 16)) * 0x7FEB352D
    h = (h ^ (h >> 15)) * 0x846CA68B
    return h ^ (h >> 16)
