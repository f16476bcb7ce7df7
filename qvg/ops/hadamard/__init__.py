"""The orthonormal Hadamard rotation of channels."""

from __future__ import annotations

from qvg.ops.hadamard.reference import hadamard

__all__ = ["hadamard"]
