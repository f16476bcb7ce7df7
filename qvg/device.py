"""Choice of the data type and the attention that a cache is read with on a device."""

from __future__ import annotations

from typing import NamedTuple

import torch

from qvg.ops.attention.fastest import fastest
from qvg.ops.attention.names import AttentionName, cudnn_refused


class Choice(NamedTuple):
    """`dtype` is what spans are decoded to and attention computes in; `reason` is a sentence for people."""

    dtype: torch.dtype
    attention: AttentionName
    reason: str


def choose(device: torch.device, head_dim: int) -> Choice:
    """Returns what to read a cache with on `device`. On a GPU it times the attentions, once a process."""
    if device.type == "cuda":
        usual = _choose_cuda(torch.cuda.get_device_capability(device), head_dim)
        if usual.attention == "math":
            return usual
        return Choice(usual.dtype, *fastest(device, head_dim, usual.attention))
    if device.type == "meta":
        return Choice(torch.bfloat16, "cuda-flash", "stands for a GPU: nothing is computed")
    if device.type != "cpu":
        return Choice(
            torch.float32, "math", f"no attention that returns its log-sum-exp is known on {device.type}"
        )
    if torch.cpu._is_amx_tile_supported():
        dtype, why = torch.bfloat16, "this CPU multiplies BF16 matrices (AMX)"
    else:
        # BF16 vectors (AVX-512) do not help: on a Xeon with them and without AMX, torch 2.13 multiplies and
        # attends 1.6 times as fast in FP32 (measured).
        dtype, why = torch.float32, "this CPU multiplies no BF16 matrices"
    if hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"):
        return Choice(dtype, "cpu-flash", f"{why}; torch's fused attention returns its log-sum-exp")
    return Choice(dtype, "math", f"{why}; this torch has no fused CPU attention")


def _choose_cuda(capability: tuple[int, int], head_dim: int) -> Choice:
    if capability < (8, 0):
        return Choice(
            torch.float32, "math", f"compute capability {capability[0]}.{capability[1]} has no BF16 attention"
        )
    if head_dim % 8 or head_dim > 256:
        return Choice(torch.bfloat16, "math", f"head_dim={head_dim} is not a multiple of 8 up to 256")
    if capability[0] == 9 and head_dim <= 128 and cudnn_refused() is None:
        return Choice(torch.bfloat16, "cudnn", "usually the fastest on Hopper")
    return Choice(torch.bfloat16, "cuda-flash", "usually the fastest")
