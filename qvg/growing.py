"""Spans that grow: a block's codes are written behind those already there, and nothing written ever changes.

What a span was after any of its blocks is therefore a view of the same memory, and stays one while others are
appended: to remember it takes no copy. Only where a span is to go on from fewer blocks than were written, as
after an undo, does it move to memory of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from qvg.codecs.base import CodebookCodec, Codec, Growth
from qvg.payload import GROWING, Payload, total_bytes

P = TypeVar("P", bound=Payload)


class Room:
    """Memory for what grows of a payload, and how many tokens of it are written."""

    def __init__(self, like: Payload, tokens: int) -> None:
        """For `tokens` tokens encoded as those of `like`, which are a divisor of it in number."""
        self.written = 0
        # A tensor made in inference mode could not be written to outside of it.
        with torch.inference_mode(False):
            self.parts: Mapping[str, Tensor] = {
                name: part.new_empty(
                    [
                        size * tokens // like.shape[2] if dim == GROWING[name] else size
                        for dim, size in enumerate(part.shape)
                    ]
                )
                for name, part in like.parts.items()
                if name in GROWING
            }

    @property
    def nbytes(self) -> int:
        return total_bytes(self.parts)

    def append(self, more: P) -> P:
        """Writes `more` behind what is written; all of it, with the codebooks of `more`."""
        first, self.written = self.written, self.written + more.shape[2]
        views = {}
        for name, memory in self.parts.items():
            part, dim = more.parts[name], GROWING[name]
            start = part.shape[dim] * first // more.shape[2]
            memory.narrow(dim, start, part.shape[dim]).copy_(part)
            views[name] = memory.narrow(dim, 0, start + part.shape[dim])
        return more.with_parts({**more.parts, **views})


class Growing(NamedTuple):
    """The blocks of a span that is not full, and where they lie (None: in no room that others fit in)."""

    payload: Payload
    room: Room | None = None

    def appended(self, more: Payload, tokens: int) -> Growing:
        """With `more` behind it, in a span of `tokens` tokens."""
        room = self.room
        if room is None or room.written != self.payload.shape[2]:
            room = Room(more, tokens)
            room.append(self.payload)
        return Growing(room.append(more), room)

    @property
    def unused_bytes(self) -> int:
        """Of the room, what nothing of this span is in."""
        if self.room is None:
            return 0
        return self.room.nbytes - total_bytes({name: self.payload.parts[name] for name in self.room.parts})


def started(first: Payload, tokens: int) -> Growing:
    """A span of `tokens` tokens that begins with `first`."""
    room = Room(first, tokens)
    return Growing(room.append(first), room)


def encode_part(codec: Codec[Any], x: Tensor, warm: Payload | None, growth: Growth) -> Payload:
    """x [B, H, S, D], whole blocks of a span, encoded. `warm` is the payload of the span before."""
    if isinstance(codec, CodebookCodec):
        return codec.encode_part(x, warm, growth)
    first, *others = x.split(growth.run(x.shape[2]), dim=2)
    payload = codec.encode(first, warm)
    if not others:
        return payload
    room = Room(payload, x.shape[2])
    payload = room.append(payload)
    for block in others:
        payload = room.append(codec.encode(block, warm))
    return payload
