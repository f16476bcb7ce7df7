"""Decoding in plain torch: a lookup of the levels, one of the centroids per stage, one fused multiply-add."""

from __future__ import annotations

import torch
from torch import Tensor

from qvg.ops.e4m3 import from_e4m3
from qvg.ops.kmeans import Clusters, assigned
from qvg.ops.pack import unpack
from qvg.ops.pack.reference import Code
from qvg.ops.rotate import check_out, rotate_reference
from qvg.rope import Rope

IN_CACHE = 2 << 20  # bytes of an operand that stay in a core's caches until the next one is added to it


def reconstruct_reference(
    codes: Tensor,
    scales: Tensor,
    labels: Tensor,
    centroids: Tensor,
    code: Code,
    dtype: torch.dtype,
    start: int = 0,
    *,
    rope: Rope | None = None,
    first_frame: int = 0,
    out: Tensor | None = None,
) -> Tensor:
    """[B, H, S - start, D] in `dtype`: the sum over stages of the assigned centroids, plus level times scale.

    codes: uint8 (see `pack`); scales: e4m3 [B, H, S, D / G]; labels: uint8 [N, B, H, S]; centroids: bf16
    [N, B, H, K, D]. `rope` rotates the tokens, whole frames of which the first is `first_frame`. The result
    is written to `out` where that is given, in its type.
    """
    _, batch, heads, tokens = labels.shape
    head_dim = centroids.shape[-1]
    # With one stage all three operands are exact in BF16 and the sum is rounded once either way.
    work = torch.bfloat16 if dtype == torch.bfloat16 and len(labels) == 1 else torch.float32
    shape = (batch, heads, tokens - start, head_dim)
    if out is None:
        out = torch.empty(shape, dtype=dtype, device=codes.device)
    else:
        check_out(out, shape[:3], head_dim)
    together = max(1, IN_CACHE // (batch * tokens * head_dim * work.itemsize))
    for first in range(0, heads, together):
        part = slice(first, first + together)
        x = _sum(
            codes[:, part], scales[:, part], labels[:, :, part], centroids[:, :, part], code, work, start
        )
        rotate_reference(x.to(dtype), rope, first_frame, out[:, part])
    return out


def _sum(
    codes: Tensor,
    scales: Tensor,
    labels: Tensor,
    centroids: Tensor,
    code: Code,
    work: torch.dtype,
    start: int,
) -> Tensor:
    tokens = labels.shape[-1]
    scales, labels = scales[:, :, start:], labels[..., start:]
    x = assigned(Clusters(labels[0], centroids[0]), work)
    for stage in range(1, len(labels)):
        x += assigned(Clusters(labels[stage], centroids[stage]), work)
    groups = (*scales.shape, centroids.shape[-1] // scales.shape[-1])
    levels = unpack(codes, code, work, start, tokens)
    return x.view(groups).addcmul_(levels.reshape(groups), from_e4m3(scales, work).unsqueeze(-1)).view_as(x)
