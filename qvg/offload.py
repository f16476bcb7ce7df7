"""Encoded spans in host memory: copied there once, and back to the device whenever they are read.

A span lies in pinned memory head by head: whatever heads a stream of `qvg.attention` reads, their keys and
values are contiguous, and one copy brings them to that stream's buffer, which all layers share. The copy is
issued to the same stream as the decoding and the attention that follow it: nothing can overtake anything,
and it runs under the attention of the other stream.

Calculated for Self-Forcing: a span of 24 latents takes 31.5 MiB a layer in QVG INT2, which is 0.66 ms at 50
GB/s (PCIe 5 x16) and 1.3 ms at 25 GB/s (PCIe 4). Attention of a block to it takes 1.08 TFLOP: 2.0 ms at 543
TFLOP/s, 7 ms at 150. Copies hide under attention where the link moves 31 GB/s for each PFLOP/s of the card;
here it moves three times that. BF16 is seven times as much, 4.6 ms at 50 GB/s, and does not hide.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from itertools import accumulate
from math import prod
from operator import mul
from typing import NamedTuple

import torch
from torch import Tensor

from qvg.payload import Payload, head_dim

ALIGN = 256  # bytes: kernels built for strides of plain payloads serve these too
EVERY = slice(None)
PIECE_SPANS = 8  # at least so many spans of a layer in one piece of pinned memory


class FieldLayout(NamedTuple):
    """Layout of one of a payload's tensors in a head's row of bytes."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]  # without heads
    start: int  # bytes

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize

    def of(self, rows: Tensor) -> Tensor:
        """Returns the tensor of the heads in uint8 `rows` [h, row], as a view."""
        at, size = head_dim(self.name), self.dtype.itemsize
        strides = [*accumulate(reversed(self.shape[1:]), mul, initial=1)][::-1]
        return rows.view(self.dtype).as_strided(
            (*self.shape[:at], rows.shape[0], *self.shape[at:]),
            (*strides[:at], rows.shape[1] // size, *strides[at:]),
            (rows.storage_offset() + self.start) // size,
        )


class HostSpan:
    """Keys and values of one span of one layer, in host memory."""

    def __init__(self, k: Payload, v: Payload, memory: HostMemory) -> None:
        """Copies k and v in the current stream; they may be freed at once."""
        self.device = next(iter(k.parts.values())).device
        fields, row = _fields(k, 0)
        v_fields, row = _fields(v, row)
        self._fields = (fields, v_fields)
        # On the device "meta", for shapes, types and sizes without memory.
        self.k, self.v = (
            x.with_parts({name: torch.empty_like(part, device="meta") for name, part in x.parts.items()})
            for x in (k, v)
        )
        self.nbytes = k.stored_bytes + v.stored_bytes
        held = memory.take(k.shape[1] * row)
        # Given back with the last reference: a snapshot may share the span with the cache.
        weakref.finalize(self, memory.give_back, held).atexit = False
        self.rows = held.view(k.shape[1], row)  # uint8, a head each
        packed = torch.empty(self.rows.shape, dtype=torch.uint8, device=self.device)
        for payload, places in zip((k, v), self._fields, strict=True):
            for field in places:
                field.of(packed).copy_(payload.parts[field.name])
        self.written: torch.cuda.Event | None = None
        if memory.pinned:
            # Earlier contents have been read: this stream comes after all attention to them.
            self.rows.copy_(packed, non_blocking=True)
            self.written = torch.cuda.Event()
            self.written.record(torch.cuda.current_stream(self.device))
        else:
            self.rows.copy_(packed)

    def copy_to(self, rows: Tensor, heads: slice = EVERY) -> Tensor:
        """Fills `rows` with those of some heads in the current stream, and returns it."""
        if self.written is not None:
            torch.cuda.current_stream(self.device).wait_event(self.written)
        return rows.copy_(self.rows[heads], non_blocking=True)

    def payloads(self, rows: Tensor) -> tuple[Payload, Payload]:
        """Returns keys and values of the heads in `rows`, as views."""
        k, v = (
            like.with_parts({field.name: field.of(rows) for field in fields})
            for like, fields in zip((self.k, self.v), self._fields, strict=True)
        )
        return k, v


class HostMemory:
    """Pinned memory of a few sizes, which is reused: pinning a GiB takes some tenths of a second.

    It is allocated in powers of two, to which torch's allocator rounds pinned memory.
    """

    def __init__(self, pinned: bool, home: str = "cpu") -> None:
        self.pinned = pinned  # for a GPU: copies are asynchronous, and must be waited for
        self._home = home  # "meta" for a cache that only notes its launches
        self._free: dict[int, list[Tensor]] = defaultdict(list)

    def take(self, size: int) -> Tensor:
        """Returns uint8 [size]. Raises MemoryError where no more can be pinned."""
        free = self._free[size]
        if not free:
            piece = 1 << (PIECE_SPANS * size - 1).bit_length()
            try:
                # A tensor made in inference mode could not be written to outside of it.
                with torch.inference_mode(False):
                    memory = torch.empty(piece, dtype=torch.uint8, device=self._home, pin_memory=self.pinned)
            except RuntimeError as error:
                raise MemoryError(
                    f"out of memory: the host cannot pin {piece >> 20} MiB more for encoded history; raise "
                    "device_bytes, choose a smaller codec, or make fewer blocks"
                ) from error
            free.extend(memory[: piece // size * size].split(size))
        return free.pop()

    def give_back(self, memory: Tensor) -> None:
        """Lets `take` return `memory` again."""
        self._free[len(memory)].append(memory)


class DeviceBuffer(NamedTuple):
    """Device buffer of a stream, and views of it by span and number of heads: rows, and their payloads."""

    memory: Tensor  # uint8
    views: weakref.WeakKeyDictionary[HostSpan, dict[int, tuple[Tensor, tuple[Payload, Payload]]]]


class Offload:
    """Moves spans of all layers of a cache to host memory, and some of their heads back.

    On a CPU both are the same memory: the copies are made, and save nothing.
    """

    def __init__(self, device: torch.device) -> None:
        self._memory = HostMemory(device.type == "cuda", "meta" if device.type == "meta" else "cpu")
        self._buffers: dict[tuple[torch.device, int], DeviceBuffer] = {}  # of each stream

    @property
    def nbytes(self) -> int:
        """Bytes of the device buffers of all streams."""
        return sum(buffer.memory.nbytes for buffer in self._buffers.values())

    def store(self, k: Payload, v: Payload) -> HostSpan:
        """Copies a span to host memory. Raises MemoryError where there is none left."""
        return HostSpan(k, v, self._memory)

    def load(self, span: HostSpan) -> tuple[Payload, Payload]:
        """Copies all heads to new device memory in the current stream, and returns keys and values."""
        return span.payloads(
            span.copy_to(torch.empty(span.rows.shape, dtype=torch.uint8, device=span.device))
        )

    def stage(self, span: HostSpan, heads: slice, stream: int) -> tuple[Payload, Payload]:
        """Copies some heads to the buffer of `stream` (its index), and returns their keys and values.

        Work issued to the current CUDA stream from here on may read them, until the next call with the same
        index overwrites them.
        """
        shape = span.rows[heads].shape
        buffer = self._buffers.get((span.device, stream))
        if buffer is None or len(buffer.memory) < shape.numel():
            # A tensor made in inference mode could not be written to outside of it.
            with torch.inference_mode(False):
                memory = torch.empty(shape.numel(), dtype=torch.uint8, device=span.device)
            buffer = self._buffers[span.device, stream] = DeviceBuffer(memory, weakref.WeakKeyDictionary())
        if buffer.memory.is_cuda:
            # Another stream may have allocated it: it must not be reused while this one reads.
            buffer.memory.record_stream(torch.cuda.current_stream(span.device))
        views = buffer.views.setdefault(span, {})
        if shape[0] not in views:
            rows = buffer.memory[: shape.numel()].view(shape)
            views[shape[0]] = (rows, span.payloads(rows))
        rows, payloads = views[shape[0]]
        span.copy_to(rows, heads)
        return payloads


def empty_host_cache() -> None:
    """Returns pinned memory that is no longer used to the system."""
    accelerator = getattr(torch, "accelerator", None)
    if hasattr(accelerator, "empty_host_cache"):  # torch 2.10
        torch.accelerator.empty_host_cache()
    elif hasattr(torch._C, "_host_emptyCache"):
        torch._C._host_emptyCache()  # pyright: ignore[reportAttributeAccessIssue]


def _fields(payload: Payload, start: int) -> tuple[list[FieldLayout], int]:
    """Returns the layout of a head of `payload` from byte `start` on, and the first byte after it."""
    fields = []
    for name, part in payload.parts.items():
        at = head_dim(name)
        field = FieldLayout(name, part.dtype, (*part.shape[:at], *part.shape[at + 1 :]), start)
        start += -(-field.nbytes // ALIGN) * ALIGN
        fields.append(field)
    return fields, start
