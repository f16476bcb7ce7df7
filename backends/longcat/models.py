"""LongCat-Video's loaded models: transformer, video autoencoder, adapter and prompt encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from backends.longcat.image_latents import SIZES
from backends.longcat.lora import Switch
from backends.longcat.parallel import ALONE, Team
from backends.longcat.transformer import Transformer
from backends.wan import text
from backends.wan.text import TextEncoder
from backends.wan.vae import VAE

# Returns an embedding [L, C] for each prompt: its own L tokens with the end mark, no padding.
Embed = Callable[[list[str]], list[Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class Models:
    """The loaded models and how to run them. `adapter` switches the distilled model's adapter on and off."""

    transformer: Transformer
    vae: VAE
    embed: Embed
    adapter: Switch | None = None
    team: Team = ALONE
    sizes: tuple[tuple[int, int], ...] = SIZES  # allowed (height, width) of videos from pictures


class Reader:
    """Prompt encoding with UMT5, loaded at most once per call and released afterwards."""

    def __init__(self, folder: Path, identity: str, open_encoder: Callable[[], TextEncoder]) -> None:
        self._open_encoder = open_encoder
        self._encoder: TextEncoder | None = None
        self._prompts = text.Prompts(folder, identity, self._opened)

    def __call__(self, prompts: list[str]) -> list[Tensor]:
        try:
            return [_own_tokens(self._prompts.embed(prompt)[0]) for prompt in prompts]
        finally:
            self._encoder = None
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()

    def _opened(self) -> TextEncoder:
        if self._encoder is None:
            self._encoder = self._open_encoder()
        return self._encoder


def _own_tokens(padded: Tensor) -> Tensor:
    """Returns the tokens before the padding, which is exactly zero, unlike the output of any encoder."""
    return padded[: int(padded.any(-1).sum())]
