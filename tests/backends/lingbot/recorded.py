"""Outputs of the authors' LingBot-World classes for a tiny random-weight model, in FP32 on a CPU.

`tests/data/lingbot.safetensors` was recorded from Robbyant/lingbot-world-v2 (2648877) and, for V1, from
svg-project/Quant-VideoGen's experiments/LingBot (0601468): 2 layers of 2 heads of 128 channels, 24 tokens a
frame in 4 rows of 6, a prompt of 7 tokens padded to 32. Latents and flows are [F, C, h, w].
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from backends.lingbot.transformer import GIVEN_CHANNELS, LingBotTransformer
from backends.self_forcing.transformer import WanConfig
from qvg import BF16, CacheGeometry, CachePolicy, KVCache
from qvg.rope import Rope, grid_rope

ROWS, COLUMNS = 4, 6
CONFIG = WanConfig(
    width=256,
    ffn_width=384,
    heads=2,
    layers=2,
    given_channels=GIVEN_CHANNELS,
    text_width=48,
    text_length=32,
    time_width=64,
)
GEOMETRY = CacheGeometry(layers=2, heads=2, head_dim=128, tokens_per_frame=ROWS * COLUMNS)
RECORDED = load_file(Path(__file__).parents[2] / "data" / "lingbot.safetensors")


def weights(model: nn.Module) -> dict[str, Tensor]:
    """Returns the recorder's weights: norms near one, matrices that keep the size of activations."""
    generator = torch.Generator().manual_seed(0)
    drawn = {}
    for name, tensor in sorted(model.state_dict().items()):
        noise = torch.randn(tensor.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            drawn[name] = 1 + 0.2 * noise
        elif name.endswith("weight"):
            drawn[name] = noise * noise[0].numel() ** -0.5
        else:
            drawn[name] = 0.2 * noise
    return drawn


def build() -> LingBotTransformer:
    model = LingBotTransformer(CONFIG)
    model.load_state_dict(weights(model))
    return model.eval().requires_grad_(False)


def rope() -> Rope:
    return grid_rope(1024, ROWS, COLUMNS, CONFIG.rope_pairs)


def cache(policy: CachePolicy, frames_per_block: int) -> KVCache:
    return KVCache(GEOMETRY, BF16, policy, frames_per_block=frames_per_block, dtype=torch.float32)


def draw(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))
