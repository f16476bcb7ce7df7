"""Parallel generation of one video by torchrun's processes, split by guidance branch, heads or both.

Guidance: one process runs the prompt, the other the negative prompt; a step exchanges one prediction. Heads:
each process has some of the tokens in linear layers and some of the heads in attention, so that the history,
which is never sent, is split by heads. Every process has all weights. Both together make groups of groups.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from backends.longcat.transformer import Attention


@dataclass(frozen=True, slots=True, eq=False)
class Heads:
    """The processes that share the heads of one call of the model; a `Share` of its tokens."""

    group: dist.ProcessGroup
    rank: int
    size: int

    def take(self, tokens: Tensor) -> Tensor:
        """Returns this process's tokens [B, S / size, C].

        Raises ValueError if they cannot be divided evenly.
        """
        if tokens.shape[1] % self.size:
            raise ValueError(
                f"{tokens.shape[1]} tokens cannot be shared by {self.size} processes: use another number of "
                "processes or another picture size"
            )
        return tokens.chunk(self.size, dim=1)[self.rank]

    def join(self, tokens: Tensor) -> Tensor:
        return torch.cat(_gather(tokens, self.group, self.size), dim=1)

    def around(self, attention: Attention) -> Attention:
        """Returns `attention`, run on all tokens and some heads, for q, k, v of some tokens and all heads."""

        def shared(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            mixed = attention(layer, *(self._to_heads(x) for x in (q, k, v)))
            return self._to_tokens(mixed)

        return shared

    def _to_heads(self, x: Tensor) -> Tensor:
        """Returns [B, H / size, S, D] of x [B, H, S / size, D]."""
        batch, heads, tokens, width = x.shape
        if heads % self.size:
            raise ValueError(f"{heads} heads cannot be shared by {self.size} processes")
        sent = x.unflatten(1, (self.size, -1)).movedim(1, 0).contiguous()
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=self.group)
        # One chunk of tokens from each process, in the order of their tokens.
        return received.movedim(0, 2).reshape(batch, heads // self.size, self.size * tokens, width)

    def _to_tokens(self, x: Tensor) -> Tensor:
        """Returns [B, H, S / size, D] of x [B, H / size, S, D]."""
        batch, heads, tokens, width = x.shape
        sent = x.unflatten(2, (self.size, -1)).movedim(2, 0).contiguous()
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=self.group)
        return received.movedim(0, 1).reshape(batch, heads * self.size, tokens // self.size, width)


@dataclass(frozen=True, slots=True, eq=False)
class Branches:
    """Two processes, or groups of them: 0 runs the negative prompt, 1 the prompt."""

    group: dist.ProcessGroup
    rank: int

    def exchange(self, guess: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the predictions for the negative prompt and for the prompt."""
        negative, positive = _gather(guess, self.group, 2)
        return negative, positive


@dataclass(frozen=True, slots=True, eq=False)
class Team:
    """The division of a run's work among processes; without `heads` and `branches` there is only one."""

    branches: Branches | None = None
    heads: Heads | None = None
    leads: bool = True  # this process decodes, reports and saves

    def around(self, attention: Attention) -> Attention:
        return attention if self.heads is None else self.heads.around(attention)

    def from_leader(self, tensor: Tensor) -> Tensor:
        """Returns the leader's values: results of an encoder or decoder may differ in their last digits."""
        if self.branches is not None or self.heads is not None:
            dist.broadcast(tensor, src=0)
        return tensor


ALONE = Team()


def join(guidance: bool, device: torch.device) -> Team:
    """Returns the team of torchrun's processes; a single process if torchrun did not start it.

    With `guidance` the first half of them runs the negative prompt; the rest of the division is by heads.
    Raises ValueError for a number of processes that cannot be halved.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return ALONE
    if guidance and size % 2:
        raise ValueError(f"guidance takes two processes or groups of them, but torchrun started {size}")
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    rank, sharing = dist.get_rank(), size // 2 if guidance else size
    mesh = dist.init_device_mesh(device.type, (size // sharing, sharing), mesh_dim_names=("branch", "heads"))
    return Team(
        Branches(mesh.get_group("branch"), mesh.get_local_rank("branch")) if guidance else None,
        Heads(mesh.get_group("heads"), mesh.get_local_rank("heads"), sharing) if sharing > 1 else None,
        rank == 0,
    )


def _gather(x: Tensor, group: dist.ProcessGroup, size: int) -> list[Tensor]:
    parts = [torch.empty_like(x, memory_format=torch.contiguous_format) for _ in range(size)]
    dist.all_gather(parts, x.contiguous(), group=group)
    return parts


def leave() -> None:
    """Closes the process group, if this process has one."""
    if dist.is_initialized():
        dist.destroy_process_group()
