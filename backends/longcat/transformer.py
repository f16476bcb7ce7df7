"""LongCat-Video's transformer, evaluated in pieces of tokens that bound its activations.

Parameters have the names of the original checkpoint. All frames of a call share one timestep: condition
frames, which are clean, go through a separate call whose keys and values become history. The cache is
outside: an `Attention` rotates, stores and attends. Symbols: B batch, F frames, P tokens per frame, S = F *
P, C width, H heads, D head dim, T width of the time embedding.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from backends.wan.layers import EPS, RMSNorm

PATCH = 2  # latent cells per token, each way
TOKENS_AT_ONCE = 8192  # rows that go through a block's matrices together: 180 MB of hidden FFN units

_CLASS = "LongCatVideoTransformer3DModel"
_SIZES = {  # upstream's names
    "hidden_size": "width",
    "depth": "layers",
    "num_heads": "heads",
    "in_channels": "channels",
    "caption_channels": "text_width",
    "adaln_tembed_dim": "time_width",
    "frequency_embedding_size": "frequencies",
    "mlp_ratio": "mlp_ratio",
}
# Fields about how upstream computes, not what.
_UNUSED = (
    "out_channels",
    "enable_flashattn2",
    "enable_flashattn3",
    "enable_xformers",
    "bsa_params",
    "cp_split_hw",
)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LongCatConfig:
    """Sizes; the defaults are the published model's (dit/config.json)."""

    width: int = 4096
    layers: int = 48
    heads: int = 32
    channels: int = 16
    text_width: int = 4096
    text_length: int = 512
    time_width: int = 512
    frequencies: int = 256
    mlp_ratio: int = 4
    zero_pad: bool = True  # `text_tokens_zero_pad`: text padding is attended to, as zeros

    @classmethod
    def from_json(cls, published: Mapping[str, Any]) -> LongCatConfig:
        """Returns the config of the published `dit/config.json`, read as diffusers reads it.

        Missing fields have the defaults of upstream's constructor, and fields unknown to it are logged.
        Raises KeyError, TypeError or ValueError for a file that describes something else.
        """
        if (named := published.get("_class_name", _CLASS)) != _CLASS:
            raise ValueError(f"it describes a {named}, not a {_CLASS}")
        patch = published.get("patch_size", [1, PATCH, PATCH])
        if list(patch) != [1, PATCH, PATCH] or published.get("enable_bsa"):
            raise ValueError(
                f"patch_size={patch}, enable_bsa={published.get('enable_bsa')}: only dense attention over "
                f"patches of [1, {PATCH}, {PATCH}] is known"
            )
        known = (*_SIZES, *_UNUSED, "patch_size", "enable_bsa", "text_tokens_zero_pad")
        if strange := [name for name in published if name not in known and not name.startswith("_")]:
            _log.warning("LongCat-Video's configuration says %s, which is left out", ", ".join(strange))
        sizes = {ours: published[theirs] for theirs, ours in _SIZES.items() if theirs in published}
        for name, value in sizes.items():
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} is {value!r}, which is no size")
        # Upstream's constructor defaults to False; the published file says True.
        return cls(**sizes, zero_pad=published["text_tokens_zero_pad"])

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def ffn_width(self) -> int:
        """Returns two thirds of `mlp_ratio` widths, rounded up to a multiple of 256: 11008."""
        return 256 * math.ceil(int(2 * int(self.width * self.mlp_ratio) / 3) / 256)

    @property
    def rope_pairs(self) -> tuple[int, int, int]:
        """Returns the rotated channel pairs for frame, row and column: 22, 21, 21 of 64."""
        side = self.head_dim // 6
        return self.head_dim // 2 - 2 * side, side, side


class Words(NamedTuple):
    """A prompt's keys and values in one layer; k, v [1, H, L, D].

    Padding is many equal tokens. A few represent all of them, with their scores raised by `bias` [1, 1, 1,
    L].
    """

    k: Tensor
    v: Tensor
    bias: Tensor | None


Text = tuple[Words, ...]  # of every layer


class Attention(Protocol):
    """Self-attention with its history: q, k, v [B, H, S, D] of a layer, not rotated; it may overwrite them.

    Returns [B, H, S, D].
    """

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor: ...


class Share(Protocol):
    """This process's share of the tokens, if several processes work on one call."""

    def take(self, tokens: Tensor) -> Tensor:
        """Returns this process's tokens [B, S', C] of tokens [B, S, C]."""
        ...

    def join(self, tokens: Tensor) -> Tensor:
        """Returns all tokens [B, S, C] from every process's [B, S', C]."""
        ...


class FP32Linear(nn.Linear):
    """A linear layer in FP32 for weights of any dtype: time and modulation, as upstream's autocast."""

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input.float(), self.weight.float(), None if self.bias is None else self.bias.float())


class SelfAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.q_norm, self.k_norm = RMSNorm(width // heads), RMSNorm(width // heads)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns q, k, v [S, H, D] of x [S, C]."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).unbind(-3)
        return self.q_norm(q), self.k_norm(k), v


class CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_linear = nn.Linear(width, width)
        self.kv_linear = nn.Linear(width, 2 * width)
        self.proj = nn.Linear(width, width)
        self.q_norm, self.k_norm = RMSNorm(width // heads), RMSNorm(width // heads)

    def words(self, text: Tensor, padding: int) -> Words:
        """Returns keys and values of text [L, C] followed by `padding` zero tokens."""
        bias = None
        if padding:
            logs = _logarithms(padding, text.dtype).to(text.device)
            bias = torch.cat([text.new_zeros(len(text)), logs]).view(1, 1, 1, -1)
            text = torch.cat([text, text.new_zeros(len(logs), text.shape[1])])
        k, v = self.kv_linear(text).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        k, v = (rearrange(x, "l h d -> 1 h l d").contiguous() for x in (self.k_norm(k), v))
        return Words(k, v, bias)

    def forward(self, x: Tensor, words: Words) -> Tensor:
        """Returns [S, C] for x [S, C]."""
        q = rearrange(self.q_norm(self.q_linear(x).unflatten(-1, (self.heads, -1))), "s h d -> 1 h s d")
        heard = F.scaled_dot_product_attention(q, words.k, words.v, words.bias)
        return self.proj(rearrange(heard, "1 h s d -> s (h d)"))


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)
        self.w3 = nn.Linear(width, hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


class Block(nn.Module):
    def __init__(self, config: LongCatConfig) -> None:
        super().__init__()
        self.adaLN_modulation = _modulation(config, 6)
        self.pre_crs_attn_norm = nn.LayerNorm(config.width, eps=EPS)
        self.attn = SelfAttention(config.width, config.heads)
        self.cross_attn = CrossAttention(config.width, config.heads)
        self.ffn = FeedForward(config.width, config.ffn_width)

    def forward(
        self,
        x: Tensor,
        time: Tensor,
        text: tuple[Words, ...] | None,
        layer: int,
        attention: Attention,
        output: bool,
    ) -> Tensor:
        """Returns x [B, S, C], overwritten, for time fp32 [T] and a text (or None) per item of the batch.

        Without `output` it ends after keys and values have been passed to `attention`.
        """
        shift, scale, gate, shift_ffn, scale_ffn, gate_ffn = self.adaLN_modulation(time).chunk(6)
        heads = (*x.shape[:2], self.attn.heads, x.shape[2] // self.attn.heads)
        q, k, v = (x.new_empty(heads) for _ in range(3))
        for item, rows in _pieces(x):
            projected = self.attn.project(_modulate(x[item, rows], shift, scale))
            for whole, part in zip((q, k, v), projected, strict=True):
                whole[item, rows] = part
        q, k, v = (rearrange(whole, "b s h d -> b h s d") for whole in (q, k, v))
        mixed = attention(layer, q, k, v)
        if not output:
            return x
        del q, k, v
        mixed = rearrange(mixed, "b h s d -> b s (h d)")
        for item, rows in _pieces(x):
            part = _gated(x[item, rows], self.attn.proj(mixed[item, rows]), gate)
            if text is not None:
                part = part + self.cross_attn(_normed(part, self.pre_crs_attn_norm), text[item])
            hidden = self.ffn(_modulate(part, shift_ffn, scale_ffn))
            x[item, rows] = _gated(part, hidden, gate_ffn)
        return x


class PatchEmbedding(nn.Module):
    def __init__(self, config: LongCatConfig) -> None:
        super().__init__()
        self.proj = nn.Conv3d(config.channels, config.width, (1, PATCH, PATCH), (1, PATCH, PATCH))

    def forward(self, latents: Tensor) -> Tensor:
        """Returns [B, S, C] of latents [B, channels, F, h, w]."""
        cells = rearrange(latents, "b c f (r u) (q v) -> b (f r q) (c u v)", u=PATCH, v=PATCH)
        return F.linear(cells, self.proj.weight.flatten(1), self.proj.bias)


class TimeEmbedding(nn.Module):
    def __init__(self, config: LongCatConfig) -> None:
        super().__init__()
        self.frequencies = config.frequencies
        self.mlp = nn.Sequential(
            FP32Linear(config.frequencies, config.time_width),
            nn.SiLU(),
            FP32Linear(config.time_width, config.time_width),
        )

    def forward(self, t: Tensor) -> Tensor:
        """Returns fp32 [T] of a timestep t in 0..1000."""
        half = self.frequencies // 2
        index = torch.arange(half, dtype=torch.float32, device=t.device)
        angle = t.float() * torch.exp(-math.log(10_000) * index / half)
        return self.mlp(torch.cat([angle.cos(), angle.sin()]))


class CaptionEmbedding(nn.Module):
    def __init__(self, config: LongCatConfig) -> None:
        super().__init__()
        self.y_proj = nn.Sequential(
            nn.Linear(config.text_width, config.width),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.width, config.width),
        )


class FinalLayer(nn.Module):
    def __init__(self, config: LongCatConfig) -> None:
        super().__init__()
        self.linear = FP32Linear(config.width, PATCH * PATCH * config.channels)
        self.adaLN_modulation = _modulation(config, 2)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """Returns fp32 [B, S, cells of a patch] of x [B, S, C]."""
        shift, scale = self.adaLN_modulation(time).chunk(2)
        out = x.new_empty((*x.shape[:2], self.linear.out_features), dtype=torch.float32)
        for item, rows in _pieces(x):
            out[item, rows] = self.linear(_modulate(x[item, rows], shift, scale))
        return out


class Transformer(nn.Module):
    """Predicts clean latents minus noise, which upstream negates before its scheduler steps."""

    def __init__(self, config: LongCatConfig) -> None:
        super().__init__()
        self.config = config
        self.x_embedder = PatchEmbedding(config)
        self.t_embedder = TimeEmbedding(config)
        self.y_embedder = CaptionEmbedding(config)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.final_layer = FinalLayer(config)

    @property
    def dtype(self) -> torch.dtype:
        return self.x_embedder.proj.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.x_embedder.proj.weight.device

    def read(self, tokens: Tensor) -> Text:
        """Returns every layer's keys and values of a prompt's own tokens [L, text_width], without padding."""
        text = self.y_embedder.y_proj(tokens.to(self.device, self.dtype))
        padding = self.config.text_length - len(tokens) if self.config.zero_pad else 0
        return tuple(
            block.cross_attn.words(text.to(block.cross_attn.q_norm.weight.device), padding)
            for block in self.blocks
        )

    def forward(
        self,
        latents: Tensor,
        t: Tensor,
        text: tuple[Text, ...] | None,
        attention: Attention,
        output: bool = True,
        share: Share | None = None,
    ) -> Tensor | None:
        """Returns fp32 [B, 16, F, h, w] of latents [B, 16, F, h, w] at the timestep t in 0..1000.

        `text` has an entry for each item of the batch; None runs without a prompt. Without `output`, for a
        pass that only writes keys and values, it returns None and skips everything after the last layer's.
        """
        frames, rows = latents.shape[2], latents.shape[3] // PATCH
        # As upstream, the timestep has the model's dtype: in BF16 high ones are multiples of 4.
        time = self.t_embedder(t.to(self.device, self.dtype))
        x = self.x_embedder(latents.to(self.device, self.dtype))
        x = x if share is None else share.take(x)
        last = len(self.blocks) - 1
        for layer, block in enumerate(self.blocks):
            heard = None if text is None else tuple(item[layer] for item in text)
            x = block(x, time, heard, layer, attention, output or layer < last)
        if not output:
            return None
        cells = self.final_layer(x, time)
        cells = cells if share is None else share.join(cells)
        return rearrange(cells, "b (f r q) (u v c) -> b c f (r u) (q v)", f=frames, r=rows, u=PATCH, v=PATCH)


def _modulation(config: LongCatConfig, parts: int) -> nn.Sequential:
    return nn.Sequential(nn.SiLU(), FP32Linear(config.time_width, parts * config.width))


def _logarithms(count: int, dtype: torch.dtype) -> Tensor:
    """Returns numbers of `dtype` whose exponentials add up to `count`: in BF16 one alone may be 1.6 % off."""
    left, logs = float(count), []
    while left > 1e-5 * count:
        log = torch.tensor(math.log(left)).to(dtype)
        if math.exp(log) > left:
            log = torch.nextafter(log, torch.tensor(-math.inf, dtype=dtype))
        logs.append(log)
        left -= math.exp(log)
    return torch.stack(logs)


def _pieces(x: Tensor) -> Iterator[tuple[int, slice]]:
    """Yields items and rows of x [B, S, C], in pieces of about equal size."""
    count = -(-x.shape[1] // TOKENS_AT_ONCE)
    for item in range(x.shape[0]):
        for piece in range(count):
            yield item, slice(x.shape[1] * piece // count, x.shape[1] * (piece + 1) // count)


def _modulate(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Returns x [S, C] normalized, scaled and shifted by fp32 [C], in x's dtype."""
    return torch.addcmul(shift, F.layer_norm(x.float(), x.shape[-1:], eps=EPS), 1 + scale).to(x.dtype)


def _normed(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    return F.layer_norm(x.float(), x.shape[-1:], norm.weight.float(), norm.bias.float(), EPS).to(x.dtype)


def _gated(x: Tensor, y: Tensor, gate: Tensor) -> Tensor:
    return torch.addcmul(x.float(), gate, y.float()).to(x.dtype)
