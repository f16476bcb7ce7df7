"""What the authors' own classes computed for a tiny random-weight model: tests/data/self_forcing.safetensors.

Recorded in FP32 on a CPU from guandeh17/Self-Forcing at 33593df. Weights come from a seed, as they did there;
the first and the last value of each are in the file, so that another generator is noticed.
"""

from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from backends.self_forcing.transformer import Transformer, WanConfig

FILE = Path(__file__).resolve().parents[2] / "data" / "self_forcing.safetensors"
CONFIG = WanConfig(width=256, ffn_width=384, heads=2, layers=2, text_width=48, text_length=32, time_width=64)
SIZE = (3, 16, 8, 12)  # a block's latents: frames, channels, height, width
ROWS, COLUMNS = 4, 6  # tokens of a frame


@lru_cache(maxsize=1)
def _tensors() -> dict[str, Tensor]:
    return load_file(FILE)


def recorded(name: str) -> Tensor:
    return _tensors()[name]


def weights() -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in Transformer(CONFIG).state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name in sorted(shapes):
        noise = torch.randn(shapes[name], generator=generator)
        if "norm" in name and name.endswith("weight"):
            made[name] = 1 + 0.2 * noise
        elif name.endswith("weight"):
            made[name] = noise * noise[0].numel() ** -0.5
        else:
            made[name] = 0.2 * noise
        ends = made[name].flatten()[[0, -1]]
        torch.testing.assert_close(ends, recorded(f"weights/{name}"), rtol=1e-5, atol=1e-6)
    return made


def model(dtype: torch.dtype = torch.float32) -> Transformer:
    transformer = Transformer(CONFIG)
    transformer.load_state_dict(weights())
    return transformer.to(dtype).eval().requires_grad_(False)
