"""HY-WorldPlay's loaded models: transformer, video autoencoder and prompt encoder, on one device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from backends.base import BackendSpec
from backends.wan import vae
from backends.worldplay.model import Transformer
from qvg import Rope, grid_rope

POSITIONS = 1024  # latent frames with a rotary position (transformer/config.json, rope_max_seq_len)


@dataclass(frozen=True, slots=True, eq=False)
class Models:
    """The loaded models and where they run. `embed` turns a prompt into [1, 512, text_width]."""

    spec: BackendSpec
    transformer: Transformer
    rope: Rope
    autoencoder: vae.VAE
    embed: Callable[[str], Tensor]
    device: torch.device


def assemble(
    described: BackendSpec,
    transformer: Transformer,
    autoencoder: vae.VAE,
    embed: Callable[[str], Tensor],
    device: torch.device,
) -> Models:
    """Combines loaded models into one set for frames of the size in `described`."""
    token = autoencoder.scale * transformer.config.patch  # pixels per token, each way
    rows, columns = described.height // token, described.width // token
    rope = grid_rope(POSITIONS, rows, columns, transformer.config.rotary_pairs, device=device)
    return Models(described, transformer, rope, autoencoder, embed, device)
