"""LingBot-World's transformer: Wan's causal one, conditioned on a picture and on camera rays.

Parameters have the names of the original checkpoint. Symbols: B batch, F frames, P tokens per frame, C width.
"""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from backends.lingbot.cameras import RAY_CHANNELS
from backends.self_forcing.transformer import PATCH, Block, Modulations, Transformer, WanConfig

# Four channels of a mask, 1 in the first latent, then the latents of the picture followed by grey frames.
GIVEN_CHANNELS = 20


class CameraBlock(Block):
    """A block of Wan's transformer that scales and shifts its tokens by the camera, after self-attention."""

    def __init__(self, config: WanConfig) -> None:
        super().__init__(config)
        width = config.width
        self.cam_injector_layer1, self.cam_injector_layer2 = nn.Linear(width, width), nn.Linear(width, width)
        self.cam_scale_layer, self.cam_shift_layer = nn.Linear(width, width), nn.Linear(width, width)

    def modulated(self, camera: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the scale and the shift [B, F * P, C] of embedded camera rays [B, F * P, C]."""
        hidden = self.cam_injector_layer2(F.silu(self.cam_injector_layer1(camera))) + camera
        return self.cam_scale_layer(hidden), self.cam_shift_layer(hidden)


class LingBotTransformer(Transformer):
    """Predicts the flow of a block; every call needs `given` and `modulations`."""

    block = CameraBlock

    def __init__(self, config: WanConfig) -> None:
        super().__init__(config)
        width = config.width
        self.patch_embedding_wancamctrl = nn.Linear(RAY_CHANNELS * PATCH * PATCH, width)
        self.c2ws_hidden_states_layer1, self.c2ws_hidden_states_layer2 = (
            nn.Linear(width, width) for _ in range(2)
        )

    def modulations(self, rays: Tensor) -> Modulations:
        """Returns every layer's scale and shift for the rays [B, F, RAY_CHANNELS, h, w] of a block.

        They are the same in all passes of the block.
        """
        tokens = rearrange(rays, "b f c (r u) (q v) -> b (f r q) (c u v)", u=PATCH, v=PATCH)
        tokens = self.patch_embedding_wancamctrl(tokens.to(self.patch_embedding_wancamctrl.weight.dtype))
        hidden = F.silu(self.c2ws_hidden_states_layer1(tokens))
        camera = tokens + self.c2ws_hidden_states_layer2(hidden)
        return [block.modulated(camera) for block in self.blocks]
