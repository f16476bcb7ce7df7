"""Decoding in plain torch: a lookup of the levels, one of the centroids per stage, one fused multiply-add."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from qvg.ops.e4m3 import codebooks_of, from_e4m3
from qvg.ops.kmeans import Clusters, assigned
from qvg.ops.pack import unpack
from qvg.ops.pack.reference import FINE, Code
from qvg.ops.rotate import rotate_reference
from qvg.rope import Rope


class Fine(NamedTuple):
    """What `qvg.ops.residual.refine` gave for the last F tokens."""

    codes: Tensor  # uint8 [B, H, F, D / 4]
    scales: Tensor  # e4m3 [B, H, F, D / G], in units of the scales of the coarse codes


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
    run: int | None = None,
    fine: Fine | None = None,
    rope: Rope | None = None,
    first_frame: int = 0,
    out: Tensor | None = None,
) -> Tensor:
    """[B, H, S - start, D] in `dtype`: the sum over stages of the assigned centroids, plus level times scale.

    codes: uint8 (see `pack`); scales: e4m3 [B, H, S, D / G]; labels: uint8 [N, B, H, S]; centroids: bf16
    [N, B, H, K, D], or e4m3 and times `powers` of two, bf16 [N, B, H, 1, 1]; level times scale is also times
    `channels`, powers of two, bf16 [B, H, D]. `run` is that of `quantize_residual_reference`. Levels of the
    last tokens are more precise by those of `fine`. `rope` rotates the tokens, whole frames of which the
    first is `first_frame`. The result is written to `out` where that is given, in its type.
    """
    tokens = labels.shape[-1]
    scales, labels = scales[:, :, start:], labels[..., start:]
    # With one stage all three operands are exact in BF16 and the sum is rounded once either way.
    exact = len(labels) == 1 and fine is None
    work = torch.bfloat16 if dtype == torch.bfloat16 and exact else torch.float32
    x = _smooth(labels, codebooks_of(centroids, powers), work)
    groups = (*scales.shape, centroids.shape[-1] // scales.shape[-1])
    levels = unpack(codes, code, work, start, tokens, run)
    if fine is not None:
        count = min(fine.codes.shape[2], levels.shape[2])
        added = unpack(fine.codes[:, :, -count:], FINE, work).unflatten(-1, groups[-2:])
        added = added * from_e4m3(fine.scales[:, :, -count:], work).unsqueeze(-1)
        levels[:, :, -count:] += added.flatten(-2)
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
