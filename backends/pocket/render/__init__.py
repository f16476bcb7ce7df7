"""Renderer of Pocket World's scenes: a Triton kernel on GPUs, plain torch elsewhere."""

from __future__ import annotations

from torch import Tensor

from backends.pocket.render import reference
from backends.pocket.scene import Scenes
from qvg.ops.kernels import or_reference


def render(scenes: Scenes, poses: Tensor, height: int, width: int) -> Tensor:
    """Returns one picture per scene: fp32 [B, 3, height, width] in 0..1 for `poses` [B, 4]."""
    if scenes.look.is_cuda:
        from backends.pocket.render.triton import render as on_gpu

        return or_reference(
            lambda: on_gpu(scenes, poses, height, width),
            lambda: reference.render(scenes, poses, height, width),
        )
    return reference.render(scenes, poses, height, width)
