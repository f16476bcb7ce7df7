"""Loading shared by Wan's models: paths of downloaded files, and the text encoder on a suitable device."""

from __future__ import annotations

from pathlib import Path

import torch

from backends.base import BackendUnavailable
from backends.hub import artifacts, downloads
from backends.hub.artifacts import Artifact
from backends.wan import text
from backends.wan.spec import UMT5, UMT5_TOKENIZER

ENCODER_BYTES = 12_500_000_000  # the text encoder in BF16 (11.4 GB) and its activations


def located(artifact: Artifact) -> Path:
    """Returns where the files of `artifact` are. Raises BackendUnavailable if they are not downloaded."""
    path = artifacts.locate(artifact)
    if path is None:
        raise BackendUnavailable(f"{artifact.title} is not here: download it first.")
    return path


def open_encoder(device: torch.device, length: int = text.LENGTH) -> text.TextEncoder:
    """Loads UMT5-XXL to `device`, or to the CPU if a GPU has less than ENCODER_BYTES free at the moment.

    Prompts are padded to `length` tokens. Raises BackendUnavailable if files are missing or damaged.
    """
    home = device
    if device.type == "cuda":
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(device)
        home = device if free >= ENCODER_BYTES else torch.device("cpu")
    return text.load(located(UMT5), located(UMT5_TOKENIZER), home, length=length)


def prompts_folder() -> Path:
    """Returns the folder of prompt embeddings cached between runs."""
    return downloads.own_folder() / "prompts"
