"""LongCat-Video's loaded parts: transformer, autoencoder, what reads prompts, and how they work together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from backends.base import BackendUnavailable
from backends.hub import artifacts, downloads
from backends.longcat import lora, spec, weights
from backends.longcat.image_latents import SIZES
from backends.longcat.lora import Switch
from backends.longcat.parallel import ALONE, Team
from backends.longcat.transformer import Transformer
from backends.longcat.weights import Precision
from backends.wan import text, vae
from backends.wan.text import TextEncoder
from backends.wan.vae import VAE
from qvg import choose

_ENCODER_BYTES = 12_500_000_000  # the text encoder in BF16 and its activations

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


class Reader:
    """Reads prompts with UMT5, which is opened at most once for all of them and gone afterwards."""

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


def load_world(
    device: torch.device,
    say: Callable[[str], None],
    precision: Precision | None = None,
    team: Team = ALONE,
    merge_adapter: bool = False,
    beside: Sequence[torch.device] = (),
) -> World:
    """Raises BackendUnavailable when weights are missing or cannot be read.

    `precision` None is what the device has room for. Devices `beside` it take their share of the blocks, and
    of the history: two 32 GB cards hold both in BF16, and are no faster than one that could. With
    `merge_adapter` the model is the distilled one for good: it adds nothing at every layer, and cannot sample
    any other way.
    """
    if (problem := spec.missing()) is not None:
        raise BackendUnavailable(problem)
    dtype = choose(device, spec.SPEC.geometry.head_dim).dtype
    deltas = weights.load_adapter()
    if merge_adapter and deltas is None:
        raise BackendUnavailable(f"{spec.ADAPTER.title} is not here: download it first.")
    transformer = weights.load_published(
        (device, *beside),
        dtype,
        precision or weights.choose_precision(device),
        say,
        deltas if merge_adapter else None,
    )
    if merge_adapter:
        adapter = Switch(for_good=True)
    else:
        adapter = None if deltas is None else lora.put_beside(transformer, deltas)
    say("Loading the video autoencoder")
    autoencoder = vae.load(_path(spec.VAE21), device, dtype)
    reader = Reader(downloads.own_folder() / "prompts", spec.UMT5.id, lambda: _open_encoder(device))
    return World(transformer, autoencoder, reader, adapter, team)


def _own_tokens(padded: Tensor) -> Tensor:
    """Without the padding, which is all zero: no encoder's last norm returns that."""
    return padded[: int(padded.any(-1).sum())]


def _open_encoder(device: torch.device) -> TextEncoder:
    """On the GPU if it has the room just now."""
    home = device
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(device)
        home = device if free >= _ENCODER_BYTES else torch.device("cpu")
    return text.load(_path(spec.UMT5), _path(spec.UMT5_TOKENIZER), home)


def _path(artifact: artifacts.Artifact) -> Path:
    path = artifacts.locate(artifact)
    if path is None:
        raise BackendUnavailable(f"{artifact.title} is not here: download it first.")
    return path
