"""Decoding in plain torch: a lookup of the levels, one of the centroids per stage, one fused multiply-add."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from qvg.ops.e4m3 import codebooks_of, from_e4m3
from qvg.ops.kmeans import Clusters, assigned
from qvg.ops.pack import unpack
from qvg.ops.pack.reference import Code
from qvg.ops.rotate import rotate_reference
from qvg.rope import Rope


def reconstruct_reference(
    codes: Tensor,
    scales: Tensor,
    labels: Tensor,
    centroids: Tensor,
    code: Code,
    dtype: torch.dtype,
    start: int = 0,
    *,
    powers: Tensor | None = None,
    channels: Tensor | None = None,
    rope: Rope | None = None,
    first_frame: int = 0,
    out: Tensor | None = None,
) -> Tensor:
    """[B, H, S - start, D] in `dtype`: the sum over stages of the assigned centroids, plus level times scale.

    codes: uint8 (see `pack`); scales: e4m3 [B, H, S, D / G]; labels: uint8 [N, B, H, S]; centroids: bf16
    [N, B, H, K, D], or e4m3 and times `powers` of two, bf16 [N, B, H, 1, 1]; level times scale is also times
    `channels`, powers of two, bf16 [B, H, D]. `rope` rotates the tokens, whole
    frames of which the first is `first_frame`. The result is written to `out` where that is given, in its
    type.
    """
    tokens = labels.shape[-1]
    scales, labels = scales[:, :, start:], labels[..., start:]
    # With one stage all three operands are exact in BF16 and the sum is rounded once either way.
    work = torch.bfloat16 if dtype == torch.bfloat16 and len(labels) == 1 else torch.float32
    x = _smooth(labels, codebooks_of(centroids, powers), work)
    groups = (*scales.shape, centroids.shape[-1] // scales.shape[-1])
    levels = unpack(codes, code, work, start, tokens)
    if channels is not None:
        levels = levels * channels.to(work).unsqueeze(2)  # exact
    x.view(groups).addcmul_(levels.reshape(groups), from_e4m3(scales, work).unsqueeze(-1))
    if rope is None and out is not None and out.dtype == dtype:
        return rotate_reference(x, None, out=out)  # rounded on the way
    return rotate_reference(x.to(dtype), rope, first_frame, out)


def _smooth(labels: Tensor, centroids: Tensor, dtype: torch.dtype) -> Tensor:
    """The sum over stages of every token's centroids: [B, H, S, D]."""
    stages, batch, heads, count, head_dim = centroids.shape
    if stages == 1:
        return assigned(Clusters(labels[0], centroids[0]), dtype)
    first = torch.arange(0, stages * batch * heads * count, count, dtype=torch.int32, device=labels.device)
    rows = (labels.int() + first.view(stages, batch, heads, 1)).movedim(0, -1)
    table = centroids.to(dtype).reshape(-1, head_dim)
    return embedding_bag(rows.reshape(-1, stages), table, mode="sum").view(*labels.shape[1:], head_dim)
