"""Attention over chosen blocks of a cache of keys and values that know no position and no camera yet.

Both attentions, rotary and projective, are made from one reading. Chosen blocks are numbered anew from 0
without gaps, as the model was trained: how long ago a block was made does not show.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from backends.worldplay.cameras import Projections, project, rotate_and_project
from backends.worldplay.model import Mixed
from qvg import Choice, LayerCache, Rope, attend_chosen, partial_attention


@dataclass(frozen=True, eq=False, slots=True)
class Context:
    """What a block sees: blocks of history, oldest first, and itself.

    `blocks` are their numbers in the cache, the one being made left out. `projections` are those of their
    frames in the same order, and then of its own.
    """

    blocks: tuple[int, ...]
    frames_per_block: int
    projections: Projections
    rope: Rope

    def over(self, layer: LayerCache, q: Tensor) -> Mixed:
        """Attention of the own block's q [1, H, S, D] over the others in `layer` and what is staged there."""
        first = len(self.blocks) * self.frames_per_block
        own = slice(first, first + self.frames_per_block)
        queries = rotate_and_project(q, self.rope, first, self.projections.query[own])
        rotary, projective = attend_chosen(queries, layer, self.blocks, self._prepare)
        return Mixed(rotary, project(projective, self.projections.result[own]))

    def among_themselves(self, q: Tensor, k: Tensor, v: Tensor, choice: Choice) -> Mixed:
        """Attention of the blocks over each other; q, k, v [1, H, S, D] of all their frames."""
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
