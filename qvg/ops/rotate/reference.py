"""Rotary positions in plain torch."""

from __future__ import annotations

from torch import Tensor

from qvg.rope import Rope


def rotate_reference(x: Tensor, rope: Rope | None, first_frame: int = 0, out: Tensor | None = None) -> Tensor:
    """Returns x [B, H, S, D], whole frames from `first_frame` on, rotated by `rope` (None: as it is).

    The result is written to `out` where that is given: any [B, H, S, D] with contiguous channels, of any
    floating type. Raises ValueError for another shape, and as `Rope` does.
    """
    if out is not None:
        check_out(out, x.shape[:3], x.shape[3])
    if rope is not None:
        x = rope(x, first_frame)
    return x if out is None else out.copy_(x)


def check_out(out: Tensor, tokens: tuple[int, ...], head_dim: int) -> None:
    """Raises ValueError unless tokens [B, H, S] of `head_dim` channels can be written to `out`."""
    if out.shape != (*tokens, head_dim):
        raise ValueError(f"out is {tuple(out.shape)}, but what is decoded is {(*tokens, head_dim)}")
    if out.stride(-1) != 1:
        raise ValueError(f"the channels of out must be side by side, not {out.stride(-1)} apart")
