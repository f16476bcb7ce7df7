"""Asymmetric quantisation of small groups of channels or tokens with an FP8 scale and an FP8 zero point."""

from __future__ import annotations

from qvg.ops.affine.reference import dequantise_affine, quantise_affine

__all__ = ["dequantise_affine", "quantise_affine"]
