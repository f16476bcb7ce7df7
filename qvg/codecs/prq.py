"""The paper's codec: smoothing by k-means, stage after stage, then low-bit groups of the residual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qvg.config import PRQConfig, TensorName
from qvg.ops.finite import finite
from qvg.ops.interrupt import checkpoint
from qvg.ops.kmeans import kmeans
from qvg.ops.reconstruct import reconstruct
from qvg.ops.residual import channel_scales, quantize_residual, subtract
from qvg.payload import PRQPayload
from qvg.rope import Rope

# Keys and values draw different tokens to start k-means from, at every stage.
SEEDS = {"k": 0, "v": 1 << 16}


@dataclass(frozen=True, slots=True)
class PRQCodec:
    """Progressive residual quantization (arXiv 2602.02958). Same input, seed and device: same bits."""

    config: PRQConfig
    tensor: TensorName = "k"

    @property
    def seed(self) -> int:
        """The first stage's seed of k-means; every later stage adds one."""
        return SEEDS[self.tensor]

    @torch.no_grad()
    def encode(self, x: Tensor, warm: PRQPayload | None = None) -> PRQPayload:
        """x: [B, H, S, D]. k-means begins at the centroids of `warm`, which must be of as many clusters.

        NaN is taken as 0, and an infinity as the largest finite magnitude of its head.
        """
        config = self.config
        config.check_head_dim(x.shape[-1])
        values, limit = finite(x)
        residual, bound, stages = values, limit, []
        before = None if warm is None else warm.codebooks
        for stage in range(config.stages):
            checkpoint()
            start = None if before is None else before[stage]
            if stage:
                residual, bound = subtract(residual, stages[-1], bound), None
            stages.append(
                kmeans(residual, config.clusters, config.iterations, self.seed + stage, start, bound)
            )
        labels = _stacked([clusters.labels for clusters in stages])
        centroids, powers = _stacked([clusters.centroids for clusters in stages]), None
        codebooks = centroids
        if config.centroids == "fp8":
            centroids, powers = to_fp8(centroids)
            codebooks = centroids.bfloat16() * powers
        channels = channel_scales(values, labels, codebooks, limit) if config.channel_scales else None
        group = config.group_of(x.shape[-1])
        codes, scales = quantize_residual(values, labels, codebooks, group, config.code, limit, channels)
        return PRQPayload(codes, scales, labels, centroids, powers, channels, config, x.dtype)

    def decode(
        self,
        payload: PRQPayload,
        dtype: torch.dtype | None = None,
        start: int = 0,
        *,
        rope: Rope | None = None,
        first_frame: int = 0,
        out: Tensor | None = None,
    ) -> Tensor:
        """[B, H, S - start, D]; see `Codec`."""
        return reconstruct(
            payload.codes,
            payload.scales,
            payload.labels,
            payload.centroids,
            payload.config.code,
            dtype or payload.dtype,
            start,
            powers=payload.powers,
            channels=payload.channels,
            rope=rope,
            first_frame=first_frame,
            out=out,
        )


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(tensors)) if len(tensors) > 1 else tensors[0].unsqueeze(0)


def to_fp8(centroids: Tensor) -> tuple[Tensor, Tensor]:
    """bf16 [N, B, H, K, D] -> e4m3 of the same shape, and bf16 powers of two [N, B, H, 1, 1] it is times."""
    largest = centroids.float().abs().amax(dim=(3, 4), keepdim=True)
    # The largest lands between 128 and 256: room for rounding, and far above where E4M3 loses digits.
    _, exponent = torch.frexp(largest)
    powers = torch.where(largest > 0, torch.ldexp(torch.ones_like(largest), exponent - 8), 1.0)
    return (centroids.float() / powers).to(torch.float8_e4m3fn), powers.bfloat16()
