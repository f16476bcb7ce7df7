"""Positions of tokens for two attentions over the same keys: by rotation (RoPE) and by camera (PRoPE).

In the second (arXiv 2507.10496) every four channels are a point in homogeneous coordinates. Keys and values
are transformed from their camera's picture to the world, queries and results from the world to theirs, so
that only the relation of two cameras matters. The world's origin is moved to a camera nearby before rounding,
so that long distances cost no precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from backends.worldplay.poses import Views
from qvg import Rope
from qvg.ops.kernels import or_reference, use_kernels


@dataclass(frozen=True, eq=False, slots=True)
class Projections:
    """Projection matrices fp32 [F, 4, 4], one for each of F frames."""

    query: Tensor
    key: Tensor  # for values too
    result: Tensor

    @classmethod
    def of(cls, views: Views, origin: Tensor, device: torch.device) -> Projections:
        """Returns the projections of `views`, relative to a nearby camera.

        `origin` fp64 [4, 4] maps that camera's coordinates to the world's.
        """
        lens = torch.zeros(len(views), 4, 4, dtype=torch.float64)
        lens[:, 0, 0], lens[:, 1, 1] = views.focal.unbind(-1)
        lens[:, 2, 2] = lens[:, 3, 3] = 1
        picture = lens @ views.w2c @ origin
        matrices = (picture.mT, torch.linalg.inv(picture), picture)
        return cls(*(matrix.to(device, torch.float32).contiguous() for matrix in matrices))

    @classmethod
    def joined(cls, parts: Sequence[Projections]) -> Projections:
        return cls(
            torch.cat([part.query for part in parts]),
            torch.cat([part.key for part in parts]),
            torch.cat([part.result for part in parts]),
        )


def rotate_and_project(x: Tensor, rope: Rope, first_frame: int, matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Returns x [B, H, F * P, D] of whole frames, rotated from `first_frame` on, and x as from `project`."""
    rope.check(x.shape[2], x.shape[3], first_frame)
    if use_kernels(x, x.shape[-1]):
        from backends.worldplay.cameras_triton import turn

        return or_reference(
            lambda: turn(x, matrices, rope, first_frame),
            lambda: (rope(x, first_frame), project_reference(x, matrices)),
        )
    return rope(x, first_frame), project_reference(x, matrices)


def project(x: Tensor, matrices: Tensor) -> Tensor:
    """Returns x [B, H, F * P, D] with `matrices` fp32 [F, 4, 4] applied to every four channels."""
    if use_kernels(x, x.shape[-1]):
        from backends.worldplay.cameras_triton import turn

        return or_reference(lambda: turn(x, matrices)[1], lambda: project_reference(x, matrices))
    return project_reference(x, matrices)


def project_reference(x: Tensor, matrices: Tensor) -> Tensor:
    points = x.float().unflatten(2, (len(matrices), -1)).unflatten(-1, (-1, 4))  # [B, H, F, P, D / 4, 4]
    return torch.einsum("fij,bhfpnj->bhfpni", matrices, points).flatten(-2).flatten(2, 3).to(x.dtype)
