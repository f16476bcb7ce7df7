"""Wan2.1's transformer over blocks of frames, with keys passed out before rotation.

Parameters have the names of the original checkpoint. The cache is outside: a `History` stages and attends.
Symbols: B batch, F frames, P tokens per frame, C width, H heads, D head dim.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from backends.wan.layers import EPS, RMSNorm

PATCH = 2  # latent cells per token, each way

# The prompt's keys and values [B, H, S, D] of every layer.
TextMemory = tuple[tuple[Tensor, Tensor], ...]
# Scale and shift of every layer's tokens, [B, F * P, C] both.
Modulations = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class WanConfig:
    """Sizes; the defaults are Wan2.1-T2V-1.3B's (its config.json)."""

    width: int = 1536
    ffn_width: int = 8960
    heads: int = 12
    layers: int = 30
    channels: int = 16
    given_channels: int = 0  # channels that a block is conditioned on, behind its noisy latents
    text_width: int = 4096
    text_length: int = 512
    time_width: int = 256

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def rope_pairs(self) -> tuple[int, int, int]:
        """Returns the rotated channel pairs for frame, row and column: 22, 21, 21 of 64."""
        pairs = self.head_dim // 2
        return pairs - 2 * (pairs // 3), pairs // 3, pairs // 3


class History(Protocol):
    """The keys and values of self-attention. Tensors are [B, H, S, D], before rotation."""

    def stage(self, layer: int, k: Tensor, v: Tensor) -> None: ...

    def attend(self, layer: int, q: Tensor) -> Tensor:
        """Returns the attention of q to everything committed and to the staged block."""
        ...


class Projections(nn.Module):
    """The four matrices of an attention and its norms over all heads together."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.norm_q, self.norm_k = RMSNorm(width), RMSNorm(width)

    def query(self, x: Tensor) -> Tensor:
        return self._split(self.norm_q(self.q(x)))

    def memory(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._split(self.norm_k(self.k(x))), self._split(self.v(x))

    def merge(self, mixed: Tensor) -> Tensor:
        return self.o(rearrange(mixed, "b h s d -> b s (h d)"))

    def _split(self, x: Tensor) -> Tensor:
        return rearrange(x, "b s (h d) -> b h s d", h=self.heads)


class Block(nn.Module):
    """A transformer block in two halves, before and after attention to the history, which is outside."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        width = config.width
        self.self_attn = Projections(width, config.heads)
        self.norm3 = nn.LayerNorm(width, eps=EPS)
        self.cross_attn = Projections(width, config.heads)
        self.ffn = nn.Sequential(
            nn.Linear(width, config.ffn_width),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.ffn_width, width),
        )
        self.modulation = nn.Parameter(torch.zeros(1, 6, width))

    def before(
        self, x: Tensor, condition: Tensor, query: bool = True
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Returns keys, values and, if `query`, queries, [B, H, S, D].

        x [B, F * P, C], condition [B, F, 6, C]
        """
        shift, scale = (condition[:, :, :2] + self.modulation[:, :2]).unbind(2)
        heard = _modulate(x, shift, scale)
        k, v = self.self_attn.memory(heard)
        return k, v, self.self_attn.query(heard) if query else None

    def after(
        self,
        x: Tensor,
        mixed: Tensor,
        condition: Tensor,
        text_k: Tensor,
        text_v: Tensor,
        modulation: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Returns [B, F * P, C] for `mixed` [B, H, S, D] of self-attention and text_k, text_v [B, H, T, D].

        `modulation`, a scale and a shift [B, F * P, C], is applied between the two attentions.
        """
        gate, shift, scale, gate_ffn = (condition[:, :, 2:] + self.modulation[:, 2:]).unbind(2)
        x = _gated(x, self.self_attn.merge(mixed), gate)
        if modulation is not None:
            x = torch.addcmul(modulation[1], x, 1 + modulation[0])
        query = self.cross_attn.query(self.norm3(x))
        x = x + self.cross_attn.merge(F.scaled_dot_product_attention(query, text_k, text_v))
        return _gated(x, self.ffn(_modulate(x, shift, scale)), gate_ffn)


class Head(nn.Module):
    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.head = nn.Linear(config.width, PATCH * PATCH * config.channels)
        self.modulation = nn.Parameter(torch.zeros(1, 2, config.width))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Returns the patches of x [B, F * P, C] at time [B, F, C]."""
        shift, scale = (time.unsqueeze(2) + self.modulation).unbind(2)
        return self.head(_modulate(x, shift, scale))


class Transformer(nn.Module):
    """Predicts the flow, noise minus clean latents."""

    block = Block

    def __init__(self, config: WanConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        channels = config.channels + config.given_channels
        self.patch_embedding = nn.Conv3d(channels, width, (1, PATCH, PATCH), (1, PATCH, PATCH))
        self.text_embedding = nn.Sequential(
            nn.Linear(config.text_width, width), nn.GELU(approximate="tanh"), nn.Linear(width, width)
        )
        self.time_embedding = nn.Sequential(
            nn.Linear(config.time_width, width), nn.SiLU(), nn.Linear(width, width)
        )
        self.time_projection = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.blocks = nn.ModuleList(self.block(config) for _ in range(config.layers))
        self.head = Head(config)
        self._before, self._after = self.block.before, self.block.after

    def compile(self, backend: str = "inductor") -> None:
        """Compiles the halves of a block, once for all layers: shapes are the same at every length."""
        self._before = torch.compile(self.block.before, fullgraph=True, dynamic=False, backend=backend)
        self._after = torch.compile(self.block.after, fullgraph=True, dynamic=False, backend=backend)

    def read(self, prompt: Tensor) -> TextMemory:
        """Returns every layer's keys and values of a prompt [B, text_length, text_width], zero-padded."""
        # Padding is attended to: the checkpoint was trained without a mask.
        words = self.text_embedding(prompt)
        return tuple(block.cross_attn.memory(words) for block in self.blocks)

    def times(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns [B, F, C] for the head and [B, F, 6, C] for the blocks; t [B, F] is in 0..1000."""
        half = self.config.time_width // 2
        frequency = 10_000.0 ** (-torch.arange(half, dtype=torch.float64, device=t.device) / half)
        angle = t.double().unsqueeze(-1) * frequency
        waves = torch.cat([angle.cos(), angle.sin()], -1).to(self.head.head.weight.dtype)
        time = self.time_embedding(waves)
        return time, self.time_projection(time).unflatten(-1, (6, -1))

    def forward(
        self,
        noisy: Tensor,
        t: Tensor,
        text: TextMemory,
        history: History,
        output: bool = True,
        given: Tensor | None = None,
        modulations: Modulations | None = None,
    ) -> Tensor | None:
        """Returns the flow [B, F, 16, h, w] of noisy latents [B, F, 16, h, w] at times t [B, F] in 0..1000.

        `given` [B, F, G, h, w] are the config's G channels that the block is conditioned on. Without
        `output`, for a pass that only writes keys and values, everything after the last layer's is skipped.
        """
        rows = noisy.shape[-2] // PATCH
        latents = noisy if given is None else torch.cat([noisy, given], 2)
        tokens = rearrange(latents, "b f c (r u) (q v) -> b (f r q) (c u v)", u=PATCH, v=PATCH)
        x = F.linear(tokens, self.patch_embedding.weight.flatten(1), self.patch_embedding.bias)
        time, condition = self.times(t)
        last = len(self.blocks) - 1
        for layer, block in enumerate(self.blocks):
            k, v, query = self._before(block, x, condition, output or layer < last)
            history.stage(layer, k, v)
            if query is None:
                return None
            extra = None if modulations is None else modulations[layer]
            x = self._after(block, x, history.attend(layer, query), condition, *text[layer], extra)
        return rearrange(
            self.head(x, time),
            "b (f r q) (u v c) -> b f c (r u) (q v)",
            f=noisy.shape[1],
            r=rows,
            u=PATCH,
            v=PATCH,
        )


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Returns x [B, F * P, C] normalized, then scaled and shifted by its frame's [B, F, C]."""
    normed = F.layer_norm(x, x.shape[-1:], eps=EPS).unflatten(1, (shift.shape[1], -1))
    return torch.addcmul(shift.unsqueeze(2), normed, 1 + scale.unsqueeze(2)).flatten(1, 2)


def _gated(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    frames = (gate.shape[1], -1)
    return torch.addcmul(x.unflatten(1, frames), y.unflatten(1, frames), gate.unsqueeze(2)).flatten(1, 2)
