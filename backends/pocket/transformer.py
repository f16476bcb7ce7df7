"""Causal video transformer: blocks of frames, camera rays as input, keys passed out before rotation.

Cache and training are outside: both pass an `Attention`, a function of (layer, q, k, v). Symbols: B batch, F
frames, P tokens per frame, C width, H heads, D head dim.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from backends.pocket.autoencoder import LATENT_CHANNELS
from backends.pocket.conditioning import BACKDROP_FEATURES, DRAWING_FEATURES, LOOK_FEATURES, Conditioning
from backends.pocket.scene import EYE, pixel_rays
from backends.pocket.spec import COLUMNS, ROWS

# layer, then q, k, v [B, H, S, D] before rotation
Attention = Callable[[int, Tensor, Tensor, Tensor], Tensor]

PATCH_VALUES = 4 * LATENT_CHANNELS  # 2x2 latent cells are one token
OCTAVES = 6
RAY_VALUES = 11 * (1 + 2 * OCTAVES)
REACH = 12.0  # metres along a ray to the ground, at most
TOLD_WIDTH = 256
# rotated channel pairs; the other half of a head is left unrotated
TIME_PAIRS, ROW_PAIRS, COLUMN_PAIRS = 12, 8, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerConfig:
    """Sizes.

    Attention is narrower than the rest: at 300 frames it dominates the time, and fills the cache.
    """

    width: int = 384
    layers: int = 8
    heads: int = 2
    head_dim: int = 128


class Rotary:
    """Three-axis rotary embedding (frame, row, column) of the first half of every head's channels."""

    def __init__(
        self, frames: int, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
    ) -> None:
        def angles(positions: int, pairs: int, base: float) -> Tensor:
            frequency = base ** (-torch.arange(pairs, dtype=torch.float64) / pairs)
            return torch.arange(positions, dtype=torch.float64)[:, None] * frequency

        time = angles(frames, TIME_PAIRS, 1000.0)[:, None, None].expand(-1, ROWS, COLUMNS, -1)
        row = angles(ROWS, ROW_PAIRS, 100.0)[None, :, None].expand(frames, -1, COLUMNS, -1)
        column = angles(COLUMNS, COLUMN_PAIRS, 100.0)[None, None].expand(frames, ROWS, -1, -1)
        angle = rearrange(torch.cat([time, row, column], -1), "f r c d -> f (r c) d")
        self.cos = angle.cos().to(device=device, dtype=dtype)  # [frames, P, 32]
        self.sin = angle.sin().to(device=device, dtype=dtype)

    def __call__(self, x: Tensor, first_frame: int) -> Tensor:
        """Returns x [B, H, F * P, D], whole frames from `first_frame` on, rotated."""
        frames = x.shape[2] // (ROWS * COLUMNS)
        if first_frame + frames > self.cos.shape[0]:
            raise ValueError(
                f"frame {first_frame + frames} is past the rotary table of {self.cos.shape[0]} frames"
            )
        cos = self.cos[first_frame : first_frame + frames].flatten(0, 1)
        sin = self.sin[first_frame : first_frame + frames].flatten(0, 1)
        pairs = cos.shape[-1]
        a, b = x[..., :pairs], x[..., pairs : 2 * pairs]
        out = torch.empty_like(x)
        torch.mul(a, cos, out=out[..., :pairs]).addcmul_(b, sin, value=-1)
        torch.mul(a, sin, out=out[..., pairs : 2 * pairs]).addcmul_(b, cos)
        out[..., 2 * pairs :] = x[..., 2 * pairs :]
        return out


def ray_features(poses: Tensor) -> Tensor:
    """Returns Pluecker coordinates of each token's ray, its point on the ground, and octaves of both.

    The result is [B, F, P, RAY_VALUES] for poses [B, F, 4]. A ray that looks up, or meets the ground far off,
    counts as meeting it at a distance of REACH.
    """
    direction = pixel_rays(poses, ROWS, COLUMNS).flatten(-3, -2)
    origin = torch.stack([poses[..., 0], torch.zeros_like(poses[..., 0]), poses[..., 1]], -1) / 4
    origin = origin.unsqueeze(-2).expand_as(direction)
    reach = EYE / (-direction[..., 1:2]).clamp_min(EYE / REACH)
    ground = (origin + direction * reach / 4)[..., [0, 2]]
    plucker = torch.cat([origin, direction, torch.linalg.cross(origin, direction), ground], -1)
    waves = plucker.unsqueeze(-1) * (math.pi * 2.0 ** torch.arange(OCTAVES, device=poses.device))
    return torch.cat([plucker, waves.sin().flatten(-2), waves.cos().flatten(-2)], -1)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), 1 + scale)


class Block(nn.Module):
    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        width, inner = config.width, config.heads * config.head_dim
        self.heads = config.heads
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.q_norm = nn.RMSNorm(config.head_dim, eps=1e-6)
        self.k_norm = nn.RMSNorm(config.head_dim, eps=1e-6)
        self.out = nn.Linear(inner, width, bias=False)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)
        self.table = nn.Parameter(torch.zeros(6, width))

    def forward(self, x: Tensor, condition: Tensor, layer: int, attention: Attention) -> Tensor:
        """Returns [B, F, P, C] for x [B, F, P, C] and condition [B, F, 1, 6, C]."""
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (condition + self.table).unbind(-2)
        frames = x.shape[1]
        q, k, v = rearrange(
            self.qkv(_modulate(x, shift, scale)),
            "b f p (three h d) -> three b h (f p) d",
            three=3,
            h=self.heads,
        )
        mixed = attention(layer, self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype), v)
        x = torch.addcmul(x, gate, self.out(rearrange(mixed, "b h (f p) d -> b f p (h d)", f=frames)))
        hidden = F.gelu(self.up(_modulate(x, shift_mlp, scale_mlp)), approximate="tanh")
        return torch.addcmul(x, gate_mlp, self.down(hidden))


class Transformer(nn.Module):
    """Predicts clean latents from noisy ones: x_t = (1 - t) x_0 + t noise."""

    def __init__(self, config: TransformerConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or TransformerConfig()
        width = config.width
        self.patch = nn.Linear(PATCH_VALUES, width)
        self.ray = nn.Linear(RAY_VALUES, width, bias=False)
        self.time = nn.Sequential(nn.Linear(128, width), nn.SiLU(), nn.Linear(width, width))
        self.look = nn.Sequential(nn.Linear(LOOK_FEATURES, width), nn.SiLU(), nn.Linear(width, width))
        self.drawing, self.backdrop = (
            nn.Sequential(
                nn.Linear(features, TOLD_WIDTH), nn.SiLU(), nn.Linear(TOLD_WIDTH, width, bias=False)
            )
            for features in (DRAWING_FEATURES, BACKDROP_FEATURES)
        )
        self.condition = nn.Linear(width, 6 * width)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_condition = nn.Linear(width, 2 * width)
        self.final = nn.Linear(width, PATCH_VALUES)
        for zero in (self.condition, self.final_condition, self.final, self.drawing[-1], self.backdrop[-1]):
            nn.init.zeros_(zero.weight)
            if zero.bias is not None:
                nn.init.zeros_(zero.bias)

    def view(self, rays: Tensor, conditioning: Conditioning) -> Tensor:
        """Returns the embedded conditioning of every token, [B, F, P, C], for all noise levels of a block.

        rays [B, F, P, RAY_VALUES]
        """
        dtype = self.ray.weight.dtype
        drawing, backdrop = (part.to(dtype) for part in conditioning)
        return self.ray(rays.to(dtype)) + self.drawing(drawing) + self.backdrop(backdrop)

    def forward(self, noisy: Tensor, t: Tensor, view: Tensor, look: Tensor, attention: Attention) -> Tensor:
        """Returns the clean latents, of the shape of `noisy`.

        noisy [B, F, 12, 2 ROWS, 2 COLUMNS], t [B, F] in 0..1, view [B, F, P, C], look [B, LOOK_FEATURES]
        """
        tokens = rearrange(noisy, "b f c (r u) (q v) -> b f (r q) (c u v)", u=2, v=2)
        x = self.patch(tokens) + view
        time = self.time(_time_embedding(t).to(tokens.dtype))
        shared = F.silu(time + self.look(look.to(tokens.dtype)).unsqueeze(1))
        condition = rearrange(self.condition(shared), "b f (six c) -> b f 1 six c", six=6)
        for layer, block in enumerate(self.blocks):
            x = block(x, condition, layer, attention)
        shift, scale = self.final_condition(shared).unsqueeze(2).chunk(2, -1)
        out = rearrange(
            self.final(_modulate(x, shift, scale)), "b f (r q) (c u v) -> b f c (r u) (q v)", r=ROWS, u=2, v=2
        )
        # The best linear guess plus a correction of unit variance
        # (EDM, arXiv 2206.00364, section 5, for this noising).
        t = t[..., None, None, None].to(noisy.dtype)
        power = (1 - t) ** 2 + t**2
        return noisy * ((1 - t) / power) + out * (t / power.sqrt())


def _time_embedding(t: Tensor) -> Tensor:
    frequency = torch.exp(-math.log(1000.0) * torch.arange(64, device=t.device) / 64)
    angle = t.float().unsqueeze(-1) * 1000 * frequency
    return torch.cat([angle.cos(), angle.sin()], -1)
