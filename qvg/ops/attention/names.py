"""Names of the attentions that return their log-sum-exp, and whether cuDNN's is used with this torch."""

from __future__ import annotations

from typing import Literal

import torch

AttentionName = Literal["cpu-flash", "cuda-flash", "cudnn", "flash-attn-2", "flash-attn-3", "math"]

CUDNN_SINCE = (12, 9)  # CUDA versions from which torch itself uses cuDNN attention


def cudnn_refused() -> str | None:
    """Returns why cuDNN attention is not used with this torch, as a sentence; None where it may be.

    It is called past torch's own guards. Torch 2.10 turned it off below CUDA 12.9, where compute-sanitizer
    found it reading out of bounds (pytorch#169849, pytorch#171895); older versions of torch left it on.
    """
    if not torch.backends.cudnn.is_available():
        return "cuDNN attention is not used: this torch has no cuDNN."
    cuda = tuple(int(part) for part in (torch.version.cuda or "").split(".")[:2] if part.isdigit())
    if cuda < CUDNN_SINCE:
        least = ".".join(map(str, CUDNN_SINCE))
        return f"cuDNN attention is not used: torch for CUDA {torch.version.cuda} has it off, below {least}."
    enabled = getattr(torch.backends.cuda, "cudnn_sdp_enabled", None)
    if enabled is not None and not enabled():
        return "cuDNN attention is not used: it is turned off in torch (`enable_cudnn_sdp`)."
    return None
