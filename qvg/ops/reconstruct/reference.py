"""Decoding in plain torch: a lookup of the levels, one of the centroids per stage, one fused multiply-add."""

from __future__ import annotations

import torch
from torch import Tensor

from qvg.ops.kmeans import Clusters, assigned
from qvg.ops.pack import unpack
from qvg.ops.pack.reference import Bits, Code


def reconstruct(
    codes: Tensor,
    scales: Tensor,
    labels: Tensor,
    centroids: Tensor,
    bits: Bits,
    dtype: torch.dtype,
    code: Code = "absmax",
) -> Tensor:
    """[B, H, S, D] in `dtype`: the sum over stages of the assigned centroids, plus level times scale.

    codes: uint8 [B, H, S, D * bits / 8]; scales: e4m3 [B, H, S, D / G]; labels: uint8 [N, B, H, S];
    centroids: bf16 [N, B, H, K, D].
    """
    # With one stage all three operands are exact in BF16 and the sum is rounded once either way.
    work = torch.bfloat16 if dtype == torch.bfloat16 and len(labels) == 1 else torch.float32
    out = assigned(Clusters(labels[0], centroids[0]), work)
    for stage in range(1, len(labels)):
        out += assigned(Clusters(labels[stage], centroids[stage]), work)
    groups = (*scales.shape, -1)
    out.view(groups).addcmul_(unpack(codes, bits, work, code).view(groups), scales.to(work).unsqueeze(-1))
    return out.to(dtype)
