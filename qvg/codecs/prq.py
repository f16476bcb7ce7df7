"""The paper's codec: smoothing by k-means, stage after stage, then low-bit groups of the residual."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qvg.config import PRQConfig
from qvg.ops.finite import finite
from qvg.ops.kmeans import kmeans
from qvg.ops.reconstruct import reconstruct
from qvg.ops.residual import quantise_residual, subtract
from qvg.payload import PRQPayload
from qvg.rope import Rope


@dataclass(frozen=True, slots=True)
class PRQCodec:
    """Progressive residual quantisation (arXiv 2602.02958). Same input, seed and device: same bits."""

    config: PRQConfig
    seed: int

    @torch.no_grad()
    def encode(self, x: Tensor, warm: PRQPayload | None = None) -> PRQPayload:
        """x: [B, H, S, D]. k-means begins at the centroids of `warm`, which must be of as many clusters.

        NaN is taken as 0, and an infinity as the largest finite magnitude of its head.
        """
        config = self.config
        config.check_head_dim(x.shape[-1])
        values, limit = finite(x)
        residual, bound, stages = values, limit, []
        for stage in range(config.stages):
            start = None if warm is None else warm.centroids[stage]
            if stage:
                residual, bound = subtract(residual, stages[-1], bound), None
            stages.append(
                kmeans(residual, config.clusters, config.iterations, self.seed + stage, start, bound)
            )
        labels = torch.stack([clusters.labels for clusters in stages])
        centroids = torch.stack([clusters.centroids for clusters in stages])
        codes, scales = quantise_residual(
            values, labels, centroids, config.group, config.bits, config.code, limit
        )
        return PRQPayload(codes, scales, labels, centroids, config, x.dtype)

    @torch.no_grad()
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
            payload.config.bits,
            dtype or payload.dtype,
            payload.config.code,
            start,
            rope=rope,
            first_frame=first_frame,
            out=out,
        )
