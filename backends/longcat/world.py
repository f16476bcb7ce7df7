"""LongCat-Video's loaded parts, from weight files or at random."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from backends.longcat.lora import Switch
from backends.longcat.parallel import ALONE, Team
from backends.longcat.pictures import SIZES
from backends.longcat.transformer import Transformer
from backends.wan.vae import VAE

# Embeddings [L, C] of the own tokens of each prompt, end marks included.
Embed = Callable[[list[str]], list[Tensor]]


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """The loaded models and how to run them. `adapter` turns the distilled model's adapter on and off."""

    transformer: Transformer
    vae: VAE
    embed: Embed
    adapter: Switch | None = None
    team: Team = ALONE
    sizes: tuple[tuple[int, int], ...] = SIZES  # (height, width) a picture may be made at
