"""Attention to chosen blocks of a cache whose keys and values have neither position nor camera yet.

Both attentions, rotary and projective, read the cache once. Chosen blocks are numbered again from 0 without
gaps, as in training: the age of a block is not visible.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from backends.worldplay.cameras import Projections, project, rotate_and_project
from backends.worldplay.model import Mixed
from qvg import Choice, LayerCache, Rope, attend_chosen, partial_attention


@dataclass(frozen=True, eq=False, slots=True)
class Context:
    """The context of a block: blocks of history, oldest first, and the block itself.

    `blocks` are their numbers in the cache, without the block being generated. `projections` are those of
    their frames in the same order, and then of its own.
    """

    blocks: tuple[int, ...]
    frames_per_block: int
    projections: Projections
    rope: Rope

    def over(self, layer: LayerCache, q: Tensor) -> Mixed:
        """Returns the attention of the block's q [1, H, S, D] to the others in `layer` and its staged K/V."""
        first = len(self.blocks) * self.frames_per_block
        own = slice(first, first + self.frames_per_block)
        queries = rotate_and_project(q, self.rope, first, self.projections.query[own])
        rotary, projective = attend_chosen(queries, layer, self.blocks, self._prepare)
        return Mixed(rotary, project(projective, self.projections.result[own]))

    def among_themselves(self, q: Tensor, k: Tensor, v: Tensor, choice: Choice) -> Mixed:
        """Returns the attention of the blocks to each other; q, k, v [1, H, S, D] of all their frames."""
        frames = slice(0, len(self.blocks) * self.frames_per_block)
        queries = rotate_and_project(q.to(choice.dtype), self.rope, 0, self.projections.query[frames])
        prepared = self._prepare(k.to(choice.dtype), v.to(choice.dtype), 0)
        rotary, projective = (
            partial_attention(each, keys, values, choice.attention).out
            for each, (keys, values) in zip(queries, prepared, strict=True)
        )
        return Mixed(rotary, project(projective, self.projections.result[frames]))

    def _prepare(self, k: Tensor, v: Tensor, first_frame: int) -> list[tuple[Tensor, Tensor]]:
        frames = k.shape[2] // len(self.rope.place)
        matrices = self.projections.key[first_frame : first_frame + frames]
        rotated, projected = rotate_and_project(k, self.rope, first_frame, matrices)
        return [(rotated, v), (projected, project(v, matrices))]
