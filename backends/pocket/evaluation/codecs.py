"""Effect of codecs on Pocket World: the same videos, same seed, against BF16, and the errors behind them.

Videos of one seed drift apart once anything differs, and after that every codec measures the same distance:
only early windows distinguish codecs. `BF16` with another policy shows the drift from rounding alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from statistics import mean, pstdev
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from backends.pocket.evaluation.rollouts import HeldOut, poses_along, psnr_by_video, rendered
from backends.pocket.sampler import Sampler
from backends.pocket.spec import BLOCK_FRAMES, SPEC
from qvg import BF16, CachePolicy, KVCache, attend
from qvg.bench.settings import policy_name
from qvg.config import CodecConfig, with_clusters

PATH = "right-16, w-12, left-24, w-12, right-32"
# Frames, from and to. Spans have 24 frames: frames 24 to 32 are the first that read one.
WINDOWS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"first chunk": (0, BLOCK_FRAMES), "0-32": (0, 32), "24-32": (24, 32), "0-96": (0, 96)}
)
MODES = ("first frame given", "prompt only")
NOISE_LEVEL = 0.6  # of the block whose queries are used, halfway through denoising
SAME = 100.0  # dB, for identical videos
Case = tuple[str, CodecConfig, CachePolicy]


class CodecComparison:
    """BF16's videos, keys, values and queries, as the reference for codecs."""

    def __init__(self, evaluation: HeldOut, frames: int = 96) -> None:
        self.evaluation = evaluation
        self.poses = poses_along(PATH, frames)
        first = rendered(evaluation.scenes, self.poses[:1])[:, 0]
        self.given: dict[str, Tensor | None] = dict(zip(MODES, (first, None), strict=True))
        self.exact: dict[str, Tensor] = {}
        for mode, given in self.given.items():
            self.exact[mode], cache = evaluation.roll(self.poses, first=given)
            if mode == MODES[0]:
                self.history = [_whole(cache, layer) for layer in range(SPEC.geometry.layers)]
                self.queries, self.staged = self._ask(cache)
        self.answers = self._answers(self._filled(BF16, SPEC.policy))

    def row(self, case: Case) -> dict[str, Any]:
        """Returns the bytes, errors and PSNR of one codec and policy."""
        name, codec, policy = case
        row: dict[str, Any] = {"codec": name, "policy": policy_name(policy), **self._errors(codec, policy)}
        row["psnr"] = {}
        for mode, given in self.given.items():
            made, cache = self.evaluation.roll(self.poses, codec, policy, first=given)
            row["ratio"] = cache.stats().ratio
            row["psnr"][mode] = dict(_windows(made, self.exact[mode]))
        return row

    def _errors(self, codec: CodecConfig, policy: CachePolicy) -> dict[str, float]:
        """Returns the NMSE of keys and values over all layers, and the relative error of attention to them.

        Blocks that the policy leaves in BF16 are included: this is the error that affects a video.
        """
        cache = self._filled(codec, policy)
        error, square = torch.zeros(2, 2, dtype=torch.float64)
        for layer, exact in enumerate(self.history):
            for index, (x, right) in enumerate(zip(_whole(cache, layer), exact, strict=True)):
                error[index] += (x.float() - right.float()).square().sum(dtype=torch.float64).cpu()
                square[index] += right.float().square().sum(dtype=torch.float64).cpu()
        apart = [
            ((out - right).norm() / right.norm()).square()
            for out, right in zip(self._answers(cache), self.answers, strict=True)
        ]
        nmse_k, nmse_v = (error / square).tolist()
        attention = torch.stack(apart).mean().sqrt().item()
        return {"nmse_k": nmse_k, "nmse_v": nmse_v, "attention": attention}

    def _filled(self, codec: CodecConfig, policy: CachePolicy) -> KVCache:
        """Returns a cache of BF16's keys and values, with the block being denoised staged."""
        cache = self.evaluation.cache(codec, policy)
        block = BLOCK_FRAMES * SPEC.geometry.tokens_per_frame
        for start in range(0, self.history[0][0].shape[2], block):
            for layer, (k, v) in enumerate(self.history):
                cache.layer(layer).stage(k[:, :, start : start + block], v[:, :, start : start + block])
            cache.commit()
        for layer, (k, v) in enumerate(self.staged):
            cache.layer(layer).stage(k, v)
        return cache

    @torch.inference_mode()
    def _ask(self, cache: KVCache) -> tuple[list[Tensor], list[tuple[Tensor, Tensor]]]:
        """Returns every layer's queries, rotated, and keys and values of a noisy block after the history."""
        models = self.evaluation.models
        poses = self.poses[-1:].expand(len(self.evaluation.scenes), BLOCK_FRAMES, -1).to(models.device)
        last = self.exact[MODES[0]][:, -BLOCK_FRAMES:]
        clean = models.encode(last.flatten(0, 1)).unflatten(0, last.shape[:2]).float()
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(7)).to(clean.device)
        x = (1 - NOISE_LEVEL) * clean + NOISE_LEVEL * noise
        queries: list[Tensor] = []
        staged: list[tuple[Tensor, Tensor]] = []

        def attention(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            queries.append(models.rotary(q, cache.frames))
            staged.append((k, v))
            cache.layer(layer).stage(k, v)
            return attend(queries[-1], cache.layer(layer), models.rotary)

        level = torch.full(x.shape[:2], NOISE_LEVEL, device=x.device)
        sampler = Sampler(models, cache, self.evaluation.layout, seed=0)
        models.transformer(x.to(models.dtype), level, sampler.view(poses), sampler.look, attention)
        return queries, staged

    def _answers(self, cache: KVCache) -> list[Tensor]:
        """Returns every layer's attention to its queries, fp32 [B, H, Q, D]."""
        rotary = self.evaluation.models.rotary
        return [attend(q, cache.layer(layer), rotary).float() for layer, q in enumerate(self.queries)]


def cases(presets: Mapping[str, CodecConfig], policies: list[CachePolicy]) -> Iterator[Case]:
    """Yields every codec with every policy, as Pocket World uses it, except the reference itself."""
    for policy in policies:
        for name, codec in presets.items():
            if codec != BF16 or policy != SPEC.policy:
                yield name, with_clusters(codec, SPEC.clusters), policy


def _whole(cache: KVCache, layer: int) -> tuple[Tensor, Tensor]:
    """Returns keys, not rotated, and values [B, H, S, D] of the committed history, decoded."""
    decoded = cache.layer(layer).pieces(torch.bfloat16, staged=False)
    pieces = sorted(decoded, key=lambda piece: piece.first_frame)
    return torch.cat([piece.k for piece in pieces], dim=2), torch.cat([piece.v for piece in pieces], dim=2)


def _windows(made: Tensor, exact: Tensor) -> Iterator[tuple[str, list[float]]]:
    """Yields mean and standard deviation over scenes of the PSNR of each window that the videos reach."""
    for name, (first, last) in WINDOWS.items():
        if last <= made.shape[1]:
            each = psnr_by_video(made[:, first:last], exact[:, first:last], SAME)
            yield name, [mean(each), pstdev(each)]
