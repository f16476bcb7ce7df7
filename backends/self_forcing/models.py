"""Self-Forcing's loaded models: transformer, video decoders and prompt encoder, on one device."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from backends.base import BackendSpec
from backends.self_forcing.transformer import PATCH, TextMemory, Transformer
from backends.wan import taehv, vae
from qvg import Rope, grid_rope

ROPE_FRAMES = 1024  # rows of Wan's rotary table
COMPILE = "QVG_STUDIO_COMPILE"  # environment: 1 compiles the model, which delays the first block by a minute


class Prompts(Protocol):
    """A source of prompt embeddings, such as `backends.wan.text.Prompts`."""

    def embed(self, prompt: str) -> Tensor:
        """Returns [1, length, width] on the CPU; without delay for a prompt that was embedded before."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Models:
    """The loaded models and where they run. `preview` is None if the preview decoder is not downloaded."""

    transformer: Transformer
    rope: Rope
    vae: vae.VAE
    preview: taehv.TinyDecoder | None
    prompts: Prompts
    device: torch.device
    dtype: torch.dtype

    @torch.inference_mode()
    def read(self, embedding: Tensor) -> TextMemory:
        """Returns every layer's keys and values of a prompt embedding [1, length, width]."""
        return self.transformer.read(embedding.to(self.device, self.dtype))


def assemble(
    transformer: Transformer,
    autoencoder: vae.VAE,
    preview: taehv.TinyDecoder | None,
    prompts: Prompts,
    described: BackendSpec,
) -> Models:
    """Combines loaded models into one set for frames of the size in `described`."""
    weight = transformer.head.head.weight
    cell = autoencoder.scale * PATCH
    rope = grid_rope(
        ROPE_FRAMES,
        described.height // cell,
        described.width // cell,
        transformer.config.rope_pairs,
        device=weight.device,
    )
    if os.environ.get(COMPILE) == "1":
        transformer.compile()
    return Models(transformer, rope, autoencoder, preview, prompts, weight.device, weight.dtype)
