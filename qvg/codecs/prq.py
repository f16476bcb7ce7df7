"""The paper's codec: smoothing by k-means, stage after stage, then low-bit groups of the residual."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qvg.codecs.finite import finite
from qvg.config import PRQConfig
from qvg.ops.groups import quantise_groups
from qvg.ops.kmeans import assigned, kmeans
from qvg.ops.reconstruct import reconstruct
from qvg.payload import PRQPayload


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
        residual, labels, centroids = finite(x), [], []
        for stage in range(config.stages):
            start = None if warm is None else warm.centroids[stage]
            clusters = kmeans(residual, config.clusters, config.iterations, self.seed + stage, start)
            residual = residual - assigned(clusters)
            labels.append(clusters.labels)
            centroids.append(clusters.centroids)
        codes, scales = quantise_groups(residual, config.group, config.bits, config.code)
        return PRQPayload(codes, scales, torch.stack(labels), torch.stack(centroids), config, x.dtype)

    def decode(self, payload: PRQPayload, dtype: torch.dtype | None = None, start: int = 0) -> Tensor:
        """[B, H, S - start, D]"""
        return reconstruct(
            payload.codes[:, :, start:],
            payload.scales[:, :, start:],
            payload.labels[..., start:],
            payload.centroids,
            payload.config.bits,
            dtype or payload.dtype,
            payload.config.code,
        )
