"""WorldPlay-5B's transformer: Wan2.2-TI2V-5B with camera motion as input and a second, projective attention.

Names of parameters are the published checkpoint's. Positions, cameras and the cache are outside, in the
`Attention` that it is given. Batch size is 1 throughout, and frames take its place: x is [F, P, C].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

EPS = 1e-6
FED = 16  # frames at once: otherwise the widest activations of a long context would be gigabytes


class Mixed(NamedTuple):
    """Results of the two attentions over the same keys, [1, H, S, D] both."""

    rotary: Tensor
    projective: Tensor


# layer, then q, k, v [1, H, S, D] without any position; None: only k and v were needed
Attention = Callable[[int, Tensor, Tensor, Tensor], Mixed | None]


class TextKeys(NamedTuple):
    """Keys and values of a prompt for one layer, [1, H, S, D] both."""

    k: Tensor
    v: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes; WorldPlay-5B's are the defaults (Wan-AI/Wan2.2-TI2V-5B-Diffusers, transformer/config.json)."""

    layers: int = 30
    heads: int = 24
    head_dim: int = 128
    channels: int = 48
    text_width: int = 4096
    ffn_width: int = 14336
    frequencies: int = 256
    patch: int = 2

    def __post_init__(self) -> None:
        if self.head_dim % 4:
            raise ValueError(
                f"head_dim={self.head_dim} must be a multiple of 4: cameras act on four channels"
            )

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @property
    def rotary_pairs(self) -> tuple[int, int, int]:
        """Returns the rotated channel pairs for frame, row and column."""
        place = self.head_dim // 6
        return self.head_dim // 2 - 2 * place, place, place


class Embedder(nn.Module):
    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, x: Tensor, gate: Callable[[Tensor], Tensor] = F.silu) -> Tensor:
        return self.linear_2(gate(self.linear_1(x)))


class Conditions(nn.Module):
    """Embeddings of each frame's noise level and action, and of the prompt."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.time_embedder = Embedder(config.frequencies, config.width)
        self.action_embedder = Embedder(config.frequencies, config.width)
        self.time_proj = nn.Linear(config.width, 6 * config.width)
        self.text_embedder = Embedder(config.text_width, config.width)
        self._frequencies = config.frequencies

    def forward(self, t: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Returns fp32 [F, C] and [F, 6, C] of t and actions [F]."""
        dtype = self.time_embedder.linear_1.weight.dtype
        both = self.time_embedder(self._waves(t).to(dtype)) + self.action_embedder(
            self._waves(actions).to(dtype)
        )
        modulation = self.time_proj(F.silu(both).to(self.time_proj.weight.dtype))
        return both.float(), modulation.unflatten(1, (6, -1)).float()

    def _waves(self, x: Tensor) -> Tensor:
        half = self._frequencies // 2
        frequency = torch.exp(-math.log(10_000) * torch.arange(half, device=x.device) / half)
        angle = x.float().unsqueeze(-1) * frequency
        return torch.cat([angle.cos(), angle.sin()], -1)


class AttentionWeights(nn.Module):
    """Projections of one attention; the block calls them, so there is no `forward`."""

    def __init__(self, config: ModelConfig, projective: bool) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.to_q = nn.Linear(width, width)
        self.to_k = nn.Linear(width, width)
        self.to_v = nn.Linear(width, width)
        self.norm_q = nn.RMSNorm(width, eps=EPS)
        self.norm_k = nn.RMSNorm(width, eps=EPS)
        self.to_out = nn.ModuleList([nn.Linear(width, width)])
        if projective:
            self.to_out_prope = nn.ModuleList([nn.Linear(width, width)])

    def queries(self, x: Tensor) -> Tensor:
        """Returns [1, H, F * P, D] of x [F, P, C]."""
        return self._heads(self.norm_q(self.to_q(x)))

    def keys_and_values(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self._heads(self.norm_k(self.to_k(x))), self._heads(self.to_v(x))

    def _heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "f p (h d) -> 1 h (f p) d", h=self.heads)


class Activation(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, inner)

    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.proj(x), approximate="tanh")


class FeedForward(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.net = nn.Sequential(Activation(width, inner), nn.Identity(), nn.Linear(inner, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class Block(nn.Module):
    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attn1 = AttentionWeights(config, projective=True)
        self.attn2 = AttentionWeights(config, projective=False)
        self.norm2 = nn.LayerNorm(config.width, eps=EPS)
        self.ffn = FeedForward(config.width, config.ffn_width)
        self.scale_shift_table = nn.Parameter(torch.zeros(1, 6, config.width))

    def forward(
        self, x: Tensor, modulation: Tensor, text: TextKeys, layer: int, attention: Attention
    ) -> Tensor | None:
        """Returns x [F, P, C] for modulation fp32 [F, 6, C]; None if `attention` needed k and v only."""
        shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = (
            (self.scale_shift_table.float() + modulation).unsqueeze(2).unbind(1)
        )
        entered = _modulate(x, shift, scale)
        mixed = attention(layer, self.attn1.queries(entered), *self.attn1.keys_and_values(entered))
        if mixed is None:
            return None
        out = self.attn1.to_out[0](_tokens(mixed.rotary, x)) + self.attn1.to_out_prope[0](
            _tokens(mixed.projective, x)
        )
        x = _gated(x, out, gate)
        q = self.attn2.queries(_layer_norm(x, self.norm2.weight, self.norm2.bias))
        x = x + self.attn2.to_out[0](_tokens(F.scaled_dot_product_attention(q, text.k, text.v), x))
        parts = zip(*(each.split(FED) for each in (x, ffn_shift, ffn_scale, ffn_gate)), strict=True)
        fed = [
            _gated(part, self.ffn(_modulate(part, shift, scale)), gate) for part, shift, scale, gate in parts
        ]
        return fed[0] if len(fed) == 1 else torch.cat(fed)


class Transformer(nn.Module):
    """Predicts the flow, noise minus clean latents, of F latent frames."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        patch = config.patch
        self.patch_embedding = nn.Conv3d(
            config.channels, config.width, (1, patch, patch), stride=(1, patch, patch)
        )
        self.condition_embedder = Conditions(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.scale_shift_table = nn.Parameter(torch.zeros(1, 2, config.width))
        self.proj_out = nn.Linear(config.width, config.channels * patch**2)

    def read(self, prompt: Tensor) -> tuple[TextKeys, ...]:
        """Returns every layer's keys and values of a prompt [1, S, text_width]. Padding is not masked."""
        embedder = self.condition_embedder.text_embedder
        words = embedder(prompt.to(embedder.linear_1.weight.dtype), lambda x: F.gelu(x, approximate="tanh"))
        return tuple(TextKeys(*block.attn2.keys_and_values(words)) for block in self.blocks)

    def forward(
        self, latents: Tensor, t: Tensor, actions: Tensor, text: tuple[TextKeys, ...], attention: Attention
    ) -> Tensor | None:
        """Returns fp32 [F, C, h, w] of latents [F, C, h, w]; t (1000 is noise) and actions [F].

        Returns None if the last layer's attention did, in a pass that only writes keys and values.
        """
        patch, weight = self.config.patch, self.patch_embedding.weight
        patches = rearrange(latents, "f c (r u) (q v) -> f (r q) (c u v)", u=patch, v=patch)
        x: Tensor | None = F.linear(patches.to(weight.dtype), weight.flatten(1), self.patch_embedding.bias)
        level, modulation = self.condition_embedder(t, actions)
        for layer, block in enumerate(self.blocks):
            x = block(x, modulation, text[layer], layer, attention)
            if x is None:
                return None
        shift, scale = (self.scale_shift_table.float() + level.unsqueeze(1)).unsqueeze(2).unbind(1)
        flow = self.proj_out(_modulate(x, shift, scale))
        rows = latents.shape[2] // patch
        return rearrange(flow, "f (r q) (u v c) -> f c (r u) (q v)", r=rows, u=patch, v=patch).float()


def _layer_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """Normalizes in FP32; the result has x's dtype."""
    weight, bias = (None if p is None else p.float() for p in (weight, bias))
    return F.layer_norm(x.float(), x.shape[-1:], weight, bias, EPS).to(x.dtype)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Returns x [F, P, C] scaled and shifted by fp32 [F, 1, C]."""
    return torch.addcmul(shift, F.layer_norm(x.float(), x.shape[-1:], eps=EPS), 1 + scale).to(x.dtype)


def _gated(x: Tensor, out: Tensor, gate: Tensor) -> Tensor:
    return torch.addcmul(x.float(), out.float(), gate).to(x.dtype)


def _tokens(mixed: Tensor, like: Tensor) -> Tensor:
    """Returns [F, P, C] of mixed [1, H, F * P, D]."""
    return rearrange(mixed, "1 h (f p) d -> f p (h d)", f=len(like)).to(like.dtype)
