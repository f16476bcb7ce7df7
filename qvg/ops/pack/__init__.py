"""Small signed levels to bytes and back, neighbouring channels together."""

from __future__ import annotations

from qvg.ops.pack.reference import pack, unpack

__all__ = ["pack", "unpack"]
