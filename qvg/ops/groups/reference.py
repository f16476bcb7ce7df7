"""Symmetric quantization in plain torch."""

from __future__ import annotations

import torch
from torch import Tensor

from qvg.ops.e4m3 import to_e4m3
from qvg.ops.pack import pack
from qvg.ops.pack.reference import LEVELS, LLOYD_MAX, Code

# The two sizes a value is given, and from which multiple of its group's root mean square on the second: the
# best boundaries for a Gaussian (Max 1960, table I).
SIZES = {"sign": (1.0, 1.0), "trit": (0.0, 1.0), "quad": LLOYD_MAX}
BOUNDARY = {"sign": 0.0, "trit": 0.6120, "quad": 0.9816}


def quantize_groups(x: Tensor, group: int, code: Code) -> tuple[Tensor, Tensor]:
    """x: fp32 [..., S, D], finite -> codes uint8 as `pack` makes them, scales e4m3 [..., S, D / group].

    "int2" and "int4": the scale of a group is its largest magnitude over the top level t (1 or 7), as in the
    paper. It saturates at 448: what is beyond 448 * t decodes to that. A scale that rounds to zero (below
    2 ** -10) makes the whole group zero.

    "sign", "trit" and "quad" are unbiased: the scale is that for which the decoded group times the group is
    the group's square. The scale of least error is smaller; it pulls every token towards its centroid, and
    attention to what is encoded then fades. This is what RaBitQ (arXiv 2405.12497) does to whole vectors.
    """
    groups = x.unflatten(-1, (-1, group))
    numbers, scales = _absmax(groups, code) if code.startswith("int") else _unbiased(groups, code)
    return pack(numbers.flatten(-2), code), scales


def _absmax(groups: Tensor, code: Code) -> tuple[Tensor, Tensor]:
    top = -int(LEVELS[code][0])
    scales = to_e4m3(groups.abs().amax(dim=-1) / top)
    stored = scales.float()
    inverse = torch.where(stored > 0, 1 / stored, 0.0)
    return (groups * inverse.unsqueeze(-1)).round_().clamp_(-top, top) + top, scales


def _unbiased(groups: Tensor, code: Code) -> tuple[Tensor, Tensor]:
    inner, outer = SIZES[code]
    sizes = groups.abs()
    energy = sizes.square().sum(dim=-1)
    far = sizes >= (BOUNDARY[code] * (energy / sizes.shape[-1]).sqrt()).unsqueeze(-1)
    product = (sizes * torch.where(far, outer, inner)).sum(dim=-1)
    scales = to_e4m3(torch.where(product > 0, energy / product, 0.0))
    positive = groups >= 0
    if code == "sign":
        return positive, scales
    far = far.float()
    if code == "trit":
        return torch.where(positive, 1 + far, 1 - far), scales
    return torch.where(positive, 2 + far, 1 - far), scales
