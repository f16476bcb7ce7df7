"""Symmetric quantization of small groups of channels with an FP8 scale."""

from __future__ import annotations

from qvg.ops.groups.reference import quantize_groups

__all__ = ["quantize_groups"]
