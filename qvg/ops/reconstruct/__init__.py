"""Encoded tokens back to numbers."""

from __future__ import annotations

from qvg.ops.reconstruct.reference import reconstruct

__all__ = ["reconstruct"]
