"""The published repositories laid out in a folder at full size: names, keys, shapes, types, descriptions.

Numbers are holes in the files, which read as zeros and take no room on a disk.
"""

from __future__ import annotations

import json
import struct
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch

from backends.hub.artifacts import Artifact, Source
from backends.longcat import random_weights
from backends.longcat import spec as longcat
from backends.longcat.transformer import LongCatConfig
from backends.self_forcing import spec as self_forcing
from backends.wan import spec as wan
from backends.wan import taehv, vae
from backends.worldplay import spec as worldplay
from backends.worldplay import weights
from backends.worldplay.model import ModelConfig
from backends.worldplay.random_weights import VAE
from tests.backends.longcat import recorded
from tests.backends.self_forcing.test_weights import published_layout
from tests.backends.wan import samples

Shapes = Mapping[str, tuple[int, ...]]

SIZES = {torch.float32: ("F32", 4), torch.bfloat16: ("BF16", 2)}
DIT = {
    "_class_name": "LongCatVideoTransformer3DModel",
    "_diffusers_version": "0.35.1",
    "adaln_tembed_dim": 512,
    "bsa_params": {"chunk_3d_shape_k": [4, 4, 4], "chunk_3d_shape_q": [4, 4, 4], "sparsity": 0.9375},
    "caption_channels": 4096,
    "cp_split_hw": None,
    "depth": 48,
    "enable_bsa": False,
    "enable_flashattn2": True,
    "enable_flashattn3": False,
    "enable_xformers": False,
    "frequency_embedding_size": 256,
    "hidden_size": 4096,
    "in_channels": 16,
    "mlp_ratio": 4,
    "num_heads": 32,
    "out_channels": 16,
    "patch_size": [1, 2, 2],
    "text_tokens_zero_pad": True,
}


def safetensors(path: Path, shapes: Shapes, dtype: torch.dtype) -> None:
    """Writes a file as safetensors does, but for the numbers."""
    name, width = SIZES[dtype]
    described: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for key, shape in shapes.items():
        stop = start + width * torch.Size(shape).numel()
        described[key] = {"dtype": name, "shape": list(shape), "data_offsets": [start, stop]}
        start = stop
    head = json.dumps(described, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(head)) + head)
        file.truncate(8 + len(head) + start)


def pytorch(path: Path, parts: Mapping[str, Shapes], dtype: torch.dtype) -> None:
    """Writes a file as torch does, but for the numbers; a part called "" is not inside a dictionary."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), FakeTensorMode(), torch.serialization.skip_data(True):
        warnings.simplefilter("ignore")
        made = {
            part: {name: torch.empty(shape, dtype=dtype) for name, shape in shapes.items()}
            for part, shapes in parts.items()
        }
        torch.save(made.get("", made), path)


def lay_out(backend_id: str, weights_folder: Path) -> None:
    """Lays out all of a generator's repositories, as `--weights` finds them."""
    _LAID_OUT[backend_id](weights_folder)


def dit_shards(shapes: Shapes, most: int = 10_000_000_000) -> list[dict[str, tuple[int, ...]]]:
    """Cut in order of names as diffusers cuts FP32."""
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name in sorted(shapes):
        size = 4 * torch.Size(shapes[name]).numel()
        if filled + size > most:
            shards.append({})
            filled = 0
        shards[-1][name] = shapes[name]
        filled += size
    return shards


def world_shapes(config: ModelConfig | None = None) -> Shapes:
    return {name: tuple(x.shape) for name, x in weights.build(config or ModelConfig()).state_dict().items()}


def world_model(path: Path, shapes: Shapes) -> None:
    """HY-WorldPlay's one file: the transformer and its average."""
    averaged = {f"model._fsdp_wrapped_module.{name}": shape for name, shape in shapes.items()}
    generator = {f"model.{name}": shape for name, shape in shapes.items()}
    pytorch(path, {"generator": generator, "generator_ema": averaged}, torch.float32)


def _place(folder: Path, source: Source) -> Path:
    return folder / source.repo / source.path


def _umt5(folder: Path) -> None:
    shapes: dict[str, tuple[int, ...]] = {"token_embedding.weight": (256384, 4096), "norm.weight": (4096,)}
    block = {f"attn.{leaf}.weight": (4096, 4096) for leaf in "qkvo"}
    block |= {"norm1.weight": (4096,), "norm2.weight": (4096,), "pos_embedding.embedding.weight": (32, 64)}
    block |= {"ffn.gate.0.weight": (10240, 4096), "ffn.fc1.weight": (10240, 4096)}
    block |= {"ffn.fc2.weight": (4096, 10240)}
    for number in range(24):
        shapes |= {f"blocks.{number}.{name}": shape for name, shape in block.items()}
    pytorch(_place(folder, wan.UMT5.source), {"": shapes}, torch.bfloat16)
    samples.save_tokenizer(tokenizer := _place(folder, wan.UMT5_TOKENIZER.source))
    for file in wan.UMT5_TOKENIZER.files:
        path = folder / wan.UMT5_TOKENIZER.repo / file.path
        if not path.exists():
            path.write_text("{}")
        with path.open("a") as grown:
            grown.write(" " * (file.size - path.stat().st_size))
    assert tokenizer.is_dir()


def _vae21(folder: Path) -> None:
    rows = (Path(__file__).parents[1] / "data" / "wan21_vae_names.txt").read_text().splitlines()
    shapes = {name: tuple(map(int, shape)) for name, *shape in map(str.split, rows)}
    pytorch(_place(folder, wan.VAE21.source), {"": shapes}, torch.float32)


def _describe(folder: Path, artifact: Artifact, config: Mapping[str, object]) -> Path:
    place = _place(folder, artifact.source)
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    return place


def _self_forcing(folder: Path) -> None:
    shapes = {f"model.{name}": shape for name, shape in published_layout().items()}
    place = _place(folder, self_forcing.TRANSFORMER.source)
    pytorch(place, {"generator_ema": shapes}, torch.float32)
    with torch.device("meta"):
        decoder = taehv.TinyDecoder().state_dict()
    shapes = {name: tuple(x.shape) for name, x in decoder.items()}
    pytorch(_place(folder, wan.TAEHV21.source), {"": shapes}, torch.float32)
    _umt5(folder)
    _vae21(folder)


def _worldplay(folder: Path) -> None:
    world_model(_place(folder, worldplay.TRANSFORMER.source), world_shapes())
    config = {
        **samples.VAE22_PUBLISHED,
        **VAE,
        "latents_mean": [0.1] * 48,
        "latents_std": [0.5] * 48,
    }
    place = _describe(folder, worldplay.VAE22, config)
    shapes = {name: tuple(x.shape) for name, x in vae.build(config).state_dict().items()}
    safetensors(place / "diffusion_pytorch_model.safetensors", shapes, torch.float32)
    _umt5(folder)


def _longcat(folder: Path) -> None:
    place = _describe(folder, longcat.TRANSFORMER, DIT)
    shards = dit_shards(recorded.names())
    listed = {}
    for number, shapes in enumerate(shards, start=1):
        name = f"diffusion_pytorch_model-{number:05}-of-{len(shards):05}.safetensors"
        safetensors(place / name, shapes, torch.float32)
        listed |= dict.fromkeys(shapes, name)
    index = {"metadata": {"total_size": 54_324_285_696}, "weight_map": listed}
    (place / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    safetensors(_place(folder, longcat.ADAPTER.source), _adapter(), torch.float32)
    _umt5(folder)
    _vae21(folder)


def _adapter() -> Shapes:
    names, hyphen = recorded.names(), "___lorahyphen___"
    shapes: dict[str, tuple[int, ...]] = {}
    for block in range(LongCatConfig().layers):
        for target, parts in random_weights._TARGETS.items():
            rows, columns = names[f"blocks.{block}.{target}.weight"]
            key = hyphen.join(("lora", "blocks", str(block), *target.split(".")))
            shapes[f"{key}.alpha_scale"] = ()
            shapes[f"{key}.lora_down.weight"] = (parts * random_weights.RANK, columns)
            for part in range(parts):
                up = f"lora_up.blocks.{part}" if parts > 1 else "lora_up"
                shapes[f"{key}.{up}.weight"] = (rows // parts, random_weights.RANK)
    return shapes


_LAID_OUT = {"self_forcing": _self_forcing, "worldplay": _worldplay, "longcat": _longcat}
