"""The shapes that are measured: those of the models, in plain numbers, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import Tensor

from qvg.attention import Rotate
from qvg.config import CacheGeometry, CodecConfig, with_clusters
from qvg.policy import CachePolicy
from qvg.rope import grid_rope, rotary_table


class HalfRotary:
    """Pocket World's rotation, a function as models of one's own have it: half of the channels, in BF16.

    Channel j < 32 is turned with channel j + 32; where a token is changes angles, not time, and is left out.
    """

    def __init__(self, frames: int, tokens: int, head_dim: int, device: torch.device) -> None:
        table = rotary_table(frames, head_dim // 4, 1000.0).bfloat16().to(device)
        self.cos, self.sin = (part.repeat_interleave(tokens, 0) for part in table.unbind(-1))
        self.tokens = tokens

    def __call__(self, x: Tensor, first_frame: int) -> Tensor:
        """x [B, H, S, D], whole frames from `first_frame` on."""
        part = slice(first_frame * self.tokens, first_frame * self.tokens + x.shape[2])
        cos, sin = self.cos[part], self.sin[part]
        a, b, rest = x.split((cos.shape[1], cos.shape[1], x.shape[3] - 2 * cos.shape[1]), dim=-1)
        out = torch.empty_like(x)
        torch.mul(a, cos, out=out[..., : cos.shape[1]]).addcmul_(b, sin, value=-1)
        torch.mul(a, sin, out=out[..., cos.shape[1] : 2 * cos.shape[1]]).addcmul_(b, cos)
        out[..., 2 * cos.shape[1] :] = rest
        return out


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A model's self-attention as the cache sees it. Frames are latent frames."""

    title: str
    layers: int
    heads: int
    rows: int  # tokens of a frame
    columns: int
    block: int  # frames denoised together
    every: int  # blocks encoded together
    frames_per_latent: int = 4  # of video; the first latent of a causal VAE is one
    clusters: int = 256
    head_dim: int = 128
    # Of channels, that RoPE turns by frame, row and column; none: `HalfRotary`.
    pairs: tuple[int, int, int] | None = (22, 21, 21)

    @property
    def geometry(self) -> CacheGeometry:
        """Of one layer: what is measured."""
        return CacheGeometry(
            layers=1, heads=self.heads, head_dim=self.head_dim, tokens_per_frame=self.rows * self.columns
        )

    @property
    def span(self) -> int:
        """Frames encoded together."""
        return self.block * self.every

    @property
    def policy(self) -> CachePolicy:
        return CachePolicy(every=self.every)

    def codec(self, config: CodecConfig) -> CodecConfig:
        """`config` as this model uses it."""
        return with_clusters(config, self.clusters)

    def rotate(self, frames: int, device: torch.device) -> Rotate:
        """What turns keys by their position, for as many frames."""
        if self.pairs is None:
            return HalfRotary(frames, self.rows * self.columns, self.head_dim, device)
        return grid_rope(frames, self.rows, self.columns, self.pairs, device=device)

    def video_frames(self, latents: int) -> int:
        return (latents - 1) * self.frames_per_latent + 1 if self.frames_per_latent > 1 else latents

    def small(self) -> Setting:
        """The same in little, for a CPU that is not to be kept busy."""
        title = f"{self.title}, small"
        return replace(self, title=title, heads=2, rows=3, columns=4, clusters=16)


# One query block attends to everything. LongCat looks back on 19 latents at once; here its history grows.
SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        # Wan2.1 1.3B at 832 x 480; Quant VideoGen encodes 8 blocks of 3 latents together.
        "self-forcing": Setting(
            title="Self-Forcing", layers=30, heads=12, rows=30, columns=52, block=3, every=8
        ),
        # Wan2.2 5B at 1280 x 704, one of its two attentions; QUANT_FACTOR 2 in Quant VideoGen's script.
        "worldplay": Setting(
            title="HY-WorldPlay", layers=30, heads=24, rows=22, columns=40, block=4, every=2
        ),
        # 832 x 480, 20 frames a continuation; its span is 19 latents, here 4 blocks of 5.
        "longcat": Setting(title="LongCat", layers=48, heads=32, rows=30, columns=52, block=5, every=4),
        # The embedded model: backends/pocket/spec.py.
        "pocket": Setting(
            title="Pocket World",
            layers=8,
            heads=2,
            rows=8,
            columns=14,
            block=4,
            every=6,
            frames_per_latent=1,
            clusters=64,
            pairs=None,
        ),
    }
)
# What the authors of Quant VideoGen encode at once: Self-Forcing 37,440 tokens, LongCat 29,640 (73 frames).
SPANS: Mapping[str, int] = MappingProxyType({"self-forcing": 24, "worldplay": 8, "longcat": 19, "pocket": 24})

POLICY = ("every", "sink", "recent", "window", "device_bytes", "attention_bits", "grows", "fine")


def chosen(names: list[str] | None, device: torch.device, usual: tuple[str, ...]) -> dict[str, Setting]:
    """Settings by name; without names, the `usual` on a GPU and Pocket World elsewhere.

    What is too large for a CPU is small there.
    """
    big = device.type != "cpu"
    picked = names or (usual if big else ("pocket",))
    return {name: SETTINGS[name] if big or name == "pocket" else SETTINGS[name].small() for name in picked}


def parse_policy(text: str, usual: CachePolicy) -> CachePolicy:
    """`every=1,sink=1,recent=1,window=8` in blocks, `device_bytes=0`, `attention_bits=8`, `grows=1`,
    `fine=1`: `usual` with these changes.

    Raises SystemExit for anything else.
    """
    changes: dict[str, int] = {}
    for part in filter(None, text.split(",")):
        name, _, value = part.partition("=")
        if name not in POLICY or not value.isdigit():
            raise SystemExit(f"{part!r} is not one of {', '.join(f'{each}=N' for each in POLICY)}")
        changes[name] = bool(int(value)) if name in ("grows", "fine") else int(value)
    try:
        return replace(usual, **changes)
    except ValueError as error:
        raise SystemExit(f"--policy {text}: {error}") from None


def policy_name(policy: CachePolicy) -> str:
    """`every=6`: what is not off, as `parse_policy` takes it."""
    values = {name: getattr(policy, name) for name in POLICY}
    off = {
        "sink": 0,
        "recent": 0,
        "window": None,
        "device_bytes": None,
        "attention_bits": 16,
        "grows": False,
        "fine": False,
    }
    changed = {name: value for name, value in values.items() if (name, value) not in off.items()}
    return ",".join(f"{name}={int(value)}" for name, value in changed.items())
