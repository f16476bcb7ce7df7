"""UMT5-XXL prompt embeddings as Wan expects them: 512 tokens, zero-padded.

The encoder has 11.4 GB of weights and takes a second per prompt: embeddings are kept on disk, and the encoder
is loaded only for a prompt without one.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor, nn

from backends.base import BackendUnavailable
from backends.hub import files
from backends.wan import checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, UMT5Config

T = TypeVar("T")
LENGTH = 512  # tokens the transformers attend to, padding included: nothing masks it
# huggingface.co/google/umt5-xxl, config.json
XXL = {
    "vocab_size": 256384,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "feed_forward_proj": "gated-gelu",
}
_NOT_ENCODER = ("decoder.", "lm_head.", "spiece_model")
_IN_BLOCK = {
    "norm1": "layer.0.layer_norm",
    "attn.q": "layer.0.SelfAttention.q",
    "attn.k": "layer.0.SelfAttention.k",
    "attn.v": "layer.0.SelfAttention.v",
    "attn.o": "layer.0.SelfAttention.o",
    "pos_embedding.embedding": "layer.0.SelfAttention.relative_attention_bias",
    "norm2": "layer.1.layer_norm",
    "ffn.gate.0": "layer.1.DenseReluDense.wi_0",
    "ffn.fc1": "layer.1.DenseReluDense.wi_1",
    "ffn.fc2": "layer.1.DenseReluDense.wo",
}


def clean(prompt: str) -> str:
    """Returns a prompt in the form that Wan's models were trained with.

    Broken Unicode is repaired, entities are resolved, and words are separated by one space.
    """
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(prompt)))
    return re.sub(r"\s+", " ", text).strip()


class TextEncoder:
    """UMT5 and its tokenizer on one device."""

    def __init__(self, model: nn.Module, tokenizer: PreTrainedTokenizerBase, length: int = LENGTH) -> None:
        self._model, self._tokenizer, self._length = model, tokenizer, length

    @torch.inference_mode()
    def encode(self, prompt: str) -> Tensor:
        """Returns [S, C] for the prompt's own S tokens with the end mark, at most the maximum length."""
        batch = self._tokenizer(
            [clean(prompt)],
            padding="max_length",
            max_length=self._length,
            truncation=True,
            add_special_tokens=True,
            return_attention_mask=True,
            return_tensors="pt",
        )
        device = next(self._model.parameters()).device
        ids, mask = batch["input_ids"].to(device), batch["attention_mask"].to(device)
        hidden = self._model(ids, attention_mask=mask).last_hidden_state
        return hidden[0, : int(mask.sum())]


class Prompts:
    """Prompt embeddings, cached on disk.

    `identity` names the encoder in the cache; `open_encoder` is called once for each new prompt.
    """

    def __init__(
        self, folder: Path, identity: str, open_encoder: Callable[[], TextEncoder], length: int = LENGTH
    ) -> None:
        self._folder, self._identity, self._length = folder, identity, length
        self._open_encoder = open_encoder

    def known(self, prompt: str) -> bool:
        return files.whole(self._path(prompt))

    def embed(self, prompt: str) -> Tensor:
        """Returns [1, length, C] on the CPU, zero after the prompt. Frees the encoder before it returns."""
        path = self._path(prompt)
        if not self.known(prompt):
            encoder = self._open_encoder()
            tokens = encoder.encode(prompt).cpu()
            del encoder
            if torch.cuda.is_initialized():
                torch.cuda.empty_cache()
            checkpoint.write(path, {"embedding": tokens}, {"prompt": prompt})
        tokens = checkpoint.read(path)["embedding"]
        padded = tokens.new_zeros(1, self._length, tokens.shape[1])
        padded[0, : len(tokens)] = tokens
        return padded

    def _path(self, prompt: str) -> Path:
        key = json.dumps([self._identity, self._length, clean(prompt)])
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()}.safetensors"


def load(
    weights: Path,
    tokenizer: Path,
    device: torch.device | str,
    dtype: torch.dtype = torch.bfloat16,
    length: int = LENGTH,
) -> TextEncoder:
    """Loads UMT5 from `weights`, in either published layout, and the tokenizer in the folder `tokenizer`.

    The layouts: Wan's `models_t5_umt5-xxl-enc-bf16.pth`, or a folder of transformers' shards, whose
    `config.json` may specify other sizes than XXL. Raises BackendUnavailable if either cannot be read.
    """
    from transformers import AutoTokenizer

    described = weights / "config.json"
    model = build(read_config(described) if described.is_file() else _config(XXL))
    named = with_transformers_names(checkpoint.bare(checkpoint.scan(weights)))
    checkpoint.fill(model, named, device, dtype)
    for file in sorted(tokenizer.glob("*.json")):
        files.read_json(file)
    try:
        words = AutoTokenizer.from_pretrained(str(tokenizer), local_files_only=True)
    # For unknown files the library raises errors of many types, and its parser plain Exception.
    except Exception as error:
        raise files.damaged(tokenizer, f"it holds no tokenizer that transformers knows: {error}") from error
    return TextEncoder(model, words, length)


def read_config(path: Path) -> UMT5Config:
    """Returns the published `config.json` as transformers reads it; missing fields have the class's defaults.

    Raises BackendUnavailable for another kind of model.
    """
    from huggingface_hub.errors import StrictDataclassError

    read = files.read_json(path)
    if (kind := read.get("model_type", "umt5")) != "umt5":
        raise files.damaged(path, f"it describes a {kind}, not UMT5", "use the text encoder of Wan's models")
    try:
        return _config(read)
    except (StrictDataclassError, TypeError, ValueError, AttributeError, LookupError) as error:
        raise files.damaged(path, f"it describes no UMT5: {error}") from error


def _config(described: dict[str, Any]) -> UMT5Config:
    from transformers import UMT5Config

    return UMT5Config.from_dict(dict(described))


def build(config: UMT5Config) -> nn.Module:
    """Returns the encoder without weights, on the meta device."""
    from transformers import UMT5EncoderModel

    with torch.device("meta"):
        return UMT5EncoderModel(config)


def with_transformers_names(tensors: Mapping[str, T]) -> dict[str, T]:
    """Renames Wan's own layout; transformers' passes through. The latter has two names for the embedding.

    Other contents of a file are dropped: a decoder, and in ComfyUI's files the tokenizer.
    """
    tensors = {name: tensor for name, tensor in tensors.items() if not name.startswith(_NOT_ENCODER)}
    if "token_embedding.weight" in tensors:
        tensors = {_transformers_name(name): tensor for name, tensor in tensors.items()}
    embedding = tensors.get("shared.weight", tensors.get("encoder.embed_tokens.weight"))
    if embedding is None:
        raise BackendUnavailable(f"the text encoder's file holds no embedding: {checkpoint.names(tensors)}.")
    return {**tensors, "shared.weight": embedding, "encoder.embed_tokens.weight": embedding}


def _transformers_name(name: str) -> str:
    if name == "token_embedding.weight":
        return "shared.weight"
    if name == "norm.weight":
        return "encoder.final_layer_norm.weight"
    found = re.fullmatch(r"blocks\.(\d+)\.(.+)\.weight", name)
    if found is None or found[2] not in _IN_BLOCK:
        raise BackendUnavailable(f"the text encoder's file holds {name}, which UMT5 does not have.")
    return f"encoder.block.{found[1]}.{_IN_BLOCK[found[2]]}.weight"
