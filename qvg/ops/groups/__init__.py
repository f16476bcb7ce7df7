"""Symmetric quantisation of small groups of channels with an FP8 scale."""

from __future__ import annotations

from qvg.ops.groups.reference import quantise_groups

__all__ = ["quantise_groups"]
