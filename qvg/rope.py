"""Rotary positions of a video's tokens, as tables that are small enough to be read at every token.

The angle of a channel pair depends on the frame or on the place within the frame, never on both: two tables
of cosines and sines serve a history of any length, and decoding can rotate keys as it writes them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Rope:
    """Rotates neighbouring channels (2j, 2j + 1): the first pairs by frame, the others by place.

    `frame` fp32 [F, A, 2] holds cosine and sine of the A pairs that tell frames apart, `place` fp32
    [P, D / 2 - A, 2] those of the pairs that tell a frame's tokens apart.
    """

    frame: Tensor
    place: Tensor

    def __call__(self, x: Tensor, first_frame: int) -> Tensor:
        """Returns x [B, H, S, D], whole frames from `first_frame` on, rotated in FP32, in x's dtype.

        Raises ValueError for part of a frame and for frames the table does not have.
        """
        frames = self.check(x.shape[2], x.shape[3], first_frame)
        pairs = x.float().unflatten(-1, (-1, 2)).unflatten(2, (frames, -1))  # [B, H, F, P, D / 2, 2]
        count = self.frame.shape[1]
        by_frame = _rotated(pairs[..., :count, :], self.frame[first_frame : first_frame + frames, None])
        by_place = _rotated(pairs[..., count:, :], self.place)
        return torch.cat([by_frame, by_place], dim=-2).flatten(-2).flatten(2, 3).to(x.dtype)

    def check(self, tokens: int, head_dim: int, first_frame: int) -> int:
        """Returns how many frames `tokens` are. Raises ValueError where they cannot be rotated."""
        places, pairs = len(self.place), self.frame.shape[1] + self.place.shape[1]
        if head_dim != 2 * pairs:
            raise ValueError(f"D={head_dim}, but the tables rotate {2 * pairs} channels")
        if tokens % places:
            raise ValueError(f"{tokens} tokens are not whole frames of {places}")
        frames = tokens // places
        if first_frame < 0 or first_frame + frames > len(self.frame):
            raise ValueError(
                f"frames {first_frame} to {first_frame + frames - 1} are not all among the {len(self.frame)} "
                "of the rotary table"
            )
        return frames


def rotary_table(positions: int, pairs: int, base: float = 10_000.0, of: int | None = None) -> Tensor:
    """Returns fp32 [positions, pairs, 2]: cosine and sine of position * base ** (-j / of), from FP64.

    `of` is how many pairs the frequencies are spread over (None: `pairs`), as in RoFormer (arXiv 2104.09864).
    """
    frequency = base ** (-torch.arange(pairs, dtype=torch.float64) / (of or pairs))
    angle = torch.arange(positions, dtype=torch.float64)[:, None] * frequency
    return torch.stack([angle.cos(), angle.sin()], dim=-1).float()


def grid_rope(
    frames: int,
    rows: int,
    columns: int,
    pairs: tuple[int, int, int],
    base: float = 10_000.0,
    device: torch.device | str = "cpu",
) -> Rope:
    """Returns a rotation by three axes, as in Wan: `pairs` of channels turn by frame, row and column.

    Tokens of a frame are in row-major order; D is twice the sum of `pairs`.
    """
    row = rotary_table(rows, pairs[1], base)[:, None].expand(-1, columns, -1, -1)
    column = rotary_table(columns, pairs[2], base)[None].expand(rows, -1, -1, -1)
    place = torch.cat([row, column], dim=2).flatten(0, 1)
    return Rope(rotary_table(frames, pairs[0], base).to(device), place.contiguous().to(device))


def _rotated(pairs: Tensor, table: Tensor) -> Tensor:
    """Multiplies pairs [..., N, 2] by table [..., N, 2] as complex numbers."""
    a, b = pairs.unbind(-1)
    cos, sin = table.unbind(-1)
    return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1)
