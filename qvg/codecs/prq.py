"""The paper's codec: smoothing by k-means, stage after stage, then low-bit groups of the residual."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qvg.codecs.base import Growth
from qvg.config import PRQConfig, TensorName
from qvg.ops.e4m3 import to_e4m3
from qvg.ops.finite import finite
from qvg.ops.interrupt import checkpoint
from qvg.ops.kmeans import kmeans
from qvg.ops.pack.reference import rows_of
from qvg.ops.reconstruct import Fine, reconstruct
from qvg.ops.residual import channel_scales, quantize_residual, refine, subtract
from qvg.payload import Payload, PRQPayload
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
        return self.encode_part(x, warm, Growth())

    @torch.no_grad()
    def encode_part(self, x: Tensor, warm: Payload | None, growth: Growth) -> PRQPayload:
        """x: [B, H, S, D], encoded as by `encode` where nothing of its span comes before it.

        Else the centroids that are there stay, and some are added where x is far from them. The channel
        scales, and the powers of FP8 centroids, are those of the span's first block.
        """
        config, before = self.config, growth.before
        assert before is None or isinstance(before, PRQPayload)
        assert warm is None or isinstance(warm, PRQPayload)
        config.check_head_dim(x.shape[-1])
        values, limit = finite(x)
        run = growth.run(x.shape[2])
        count = config.centroids_of(run * growth.filled.blocks, growth.filled)
        kept = None if before is None else before.codebooks
        start = None if before is not None or warm is None else warm.codebooks
        if start is not None and growth.filled.of > 1:
            start = start[:, :, :, :count]  # the first block of a span has not all centroids yet
        residual, bound, stages = values, limit, []
        for stage in range(config.stages):
            checkpoint()
            if stage:
                residual, bound = subtract(residual, stages[-1], bound), None
            stages.append(
                kmeans(
                    residual,
                    count,
                    config.iterations,
                    self.seed + stage,
                    None if start is None else start[stage],
                    bound,
                    None if kept is None else kept[stage],
                )
            )
        labels = _stacked([clusters.labels for clusters in stages])
        centroids, powers = _stacked([clusters.centroids for clusters in stages]), None
        codebooks = centroids
        if config.centroids == "fp8":
            centroids, powers = to_fp8(centroids, None if before is None else before.powers)
            codebooks = centroids.bfloat16() * powers
        channels = None if before is None else before.channels
        if config.channel_scales and channels is None:
            channels = channel_scales(values, labels, codebooks, limit)
        group = config.group_of(x.shape[-1])
        rest = (config.code, limit, channels, run)
        codes, scales = quantize_residual(values, labels, codebooks, group, *rest)
        payload = PRQPayload(codes, scales, labels, centroids, powers, channels, config, run, x.dtype)
        if not growth.fine or not config.refined:
            return payload
        last, rows = slice(-growth.fine, None), rows_of(growth.fine, run, config.code)
        fine = refine(
            values[:, :, last],
            labels[..., last],
            codebooks,
            codes[:, :, -rows:],
            scales[:, :, last],
            *rest,
        )
        return replace(payload, fine_codes=fine[0], fine_scales=fine[1])

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
            run=payload.run,
            fine=None if payload.fine is None else Fine(*payload.fine),
            rope=rope,
            first_frame=first_frame,
            out=out,
        )


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    return torch.stack(tuple(tensors)) if len(tensors) > 1 else tensors[0].unsqueeze(0)


def to_fp8(centroids: Tensor, powers: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """bf16 [N, B, H, K, D] -> e4m3 of the same shape, and bf16 powers of two [N, B, H, 1, 1] it is times.

    With `powers` of centroids that came earlier, larger ones than they allow for saturate.
    """
    if powers is None:
        largest = centroids.float().abs().amax(dim=(3, 4), keepdim=True)
        # The largest lands between 8 and 16: room for later ones 28 times as large, and what is a thousandth
        # of it has all its digits.
        _, exponent = torch.frexp(largest)
        powers = torch.where(largest > 0, torch.ldexp(torch.ones_like(largest), exponent - 4), 1.0)
        powers = powers.bfloat16()
    return to_e4m3(centroids.float() / powers.float()), powers
