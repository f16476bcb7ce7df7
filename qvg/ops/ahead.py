"""Kernels compiled before they are launched, for any card and without one.

`noted` runs code on tensors without memory (device "meta") and records the launches of kernels instead of
making them. `compile_for` compiles one of them as Triton would at that launch on a given card: by Triton's
own code, with a driver that stands for the card. The result goes to Triton's cache on disk, under the key
that the launch looks up.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from threading import RLock
from typing import Any, NamedTuple

import torch
from torch import Tensor

from qvg.ops.card import Card, assumed


class Memory(NamedTuple):
    """Properties of a tensor argument that a compiled kernel depends on."""

    dtype: torch.dtype
    aligned: bool  # begins at a multiple of 16 bytes
    tile: tuple[int, ...] | None = None  # of a tensor descriptor


class Launch(NamedTuple):
    """The arguments of a launch, as far as a compiled kernel depends on them."""

    kernel: Any  # what `triton.jit` returns
    tensors: tuple[Memory | None, ...]
    numbers: int  # of integer arguments that the kernel does not specialise
    constants: tuple[int | float | bool | str, ...]
    options: tuple[tuple[str, int], ...]  # num_warps and, where it is not Triton's own, num_stages

    @property
    def name(self) -> str:
        """Module and function of the kernel, such as qvg.ops.kmeans._assign."""
        function = self.kernel.fn
        return f"{function.__module__.removesuffix('.triton')}.{function.__name__}"


class Compiled(NamedTuple):
    """A kernel compiled for one kind of card."""

    kernel: str
    capability: tuple[int, int]
    shared_bytes: int  # of shared memory a block
    key: str  # of Triton's cache on disk
    cubin: bytes


class Resources(NamedTuple):
    """Registers and memory of a thread of a compiled kernel."""

    registers: int
    spilled_bytes: int  # registers kept in memory, where there are too few


# Where it is set, launches are recorded in it and not made.
notebook: ContextVar[dict[Launch, None] | None] = ContextVar("notebook", default=None)
_substituted = RLock()


@contextmanager
def noted(card: Card) -> Iterator[dict[Launch, None]]:
    """Collects the launches of the body, as on `card`, without making them: each once, in order.

    Tensors of the body must be on the device "meta".
    """
    launches: dict[Launch, None] = {}
    token = notebook.set(launches)
    try:
        with assumed(card):
            yield launches
    finally:
        notebook.reset(token)


def note(
    launches: dict[Launch, None],
    kernel: Any,
    tensors: Any,
    numbers: int,
    constants: tuple[int | float | bool | str, ...],
    options: dict[str, int],
) -> None:
    """Adds a launch to `launches`."""
    memories = tuple(memory_of(x) for x in tensors)
    launches[Launch(kernel, memories, numbers, constants, tuple(options.items()))] = None


def memory_of(x: Any) -> Memory | None:
    """Returns what a kernel depends on of a tensor, a tensor descriptor, or None."""
    if x is None:
        return None
    if not isinstance(x, Tensor):
        return Memory(x.base.dtype, True, tuple(x.block_shape))
    # torch's allocator begins tensors at multiples of more than 16 bytes; so does a meta tensor's storage.
    start = x.storage_offset() * x.element_size() if x.is_meta else x.data_ptr()
    return Memory(x.dtype, start % 16 == 0)


def compile_for(launch: Launch, capability: tuple[int, int]) -> Compiled:
    """Compiles what `launch` launches for cards of compute `capability`, or finds it in Triton's cache.

    Needs Triton, not its interpreter, and no GPU. While it runs, other threads must not launch kernels unless
    `capability` is that of the current GPU. Raises Triton's errors where the kernel cannot be compiled.
    """
    with _card_in_place(capability) as is_here:
        compiled = launch.kernel.run(
            *(None if x is None else _argument(x) for x in launch.tensors),
            # Any number: these arguments are not specialised.
            *(1,) * launch.numbers,
            *launch.constants,
            grid=(1, 1, 1),
            warmup=True,
            **dict(launch.options),
        )
        if is_here:
            # Puts it on the GPU, and before Triton 3.7 compiles the C function that launches it.
            _ = compiled.run
    return Compiled(launch.name, capability, compiled.metadata.shared, compiled.hash, compiled.asm["cubin"])


def resources_of(cubin: bytes) -> Resources:
    """Returns registers and spills of `cubin`, by the cuobjdump that comes with Triton.

    Raises RuntimeError where its output does not name them.
    """
    import triton

    program = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        ran = subprocess.run(
            [program, "-res-usage", file.name], capture_output=True, text=True, check=True, timeout=60
        )
    found = re.search(r"REG:(\d+) STACK:(\d+)", ran.stdout)
    if found is None:
        raise RuntimeError(f"cuobjdump says nothing of registers: {ran.stdout.strip()}")
    return Resources(int(found[1]), int(found[2]))


class _StandIn:
    """Tensor of no memory, with what Triton reads of one to specialise a kernel."""

    def __init__(self, memory: Memory) -> None:
        self.dtype = memory.dtype
        self._pointer = 0 if memory.aligned else 1

    def data_ptr(self) -> int:
        return self._pointer

    def ptr_range(self) -> int:
        return 0


def _argument(memory: Memory) -> Any:
    stand_in = _StandIn(memory)
    if memory.tile is None:
        return stand_in
    from triton.tools.tensor_descriptor import TensorDescriptor

    # Of a descriptor only the type and the tile are compiled in.
    shape = list(memory.tile)
    strides = [1]
    for size in reversed(shape[1:]):
        strides.insert(0, strides[0] * size)
    return TensorDescriptor(stand_in, shape, strides, list(memory.tile))


class _CardDriver:
    """Triton driver for a card that need not be here, as far as compiling needs one."""

    def __init__(self, target: Any) -> None:
        self._target = target

    def get_current_target(self) -> Any:
        return self._target

    def get_current_device(self) -> str:
        # Triton keeps kernels by device: these must not be used on a GPU here.
        return f"ahead of sm_{self._target.arch}"

    def get_current_stream(self, device: object) -> int:
        return 0


@contextmanager
def _card_in_place(capability: tuple[int, int]) -> Iterator[bool]:
    """Makes Triton compile for cards of `capability`; yields whether the current GPU is one."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver as current

    driver: Any = current
    target = GPUTarget("cuda", 10 * capability[0] + capability[1], 32)
    if torch.cuda.is_available() and driver.active.get_current_target() == target:
        yield True
        return
    with _substituted:
        # The attribute of the active driver has another name in Triton 3.4 than later.
        before = dict(vars(driver))
        driver.set_active(_CardDriver(target))
        try:
            yield False
        finally:
            vars(driver).clear()
            vars(driver).update(before)
