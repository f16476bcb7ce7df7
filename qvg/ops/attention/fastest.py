"""Which fused attention is fastest on a GPU, by trying each once.

Cards differ: on Hopper FlashAttention 2 takes 1.7 times as long as cuDNN, on Blackwell less than it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import lru_cache
from itertools import pairwise
from statistics import median

import torch

from qvg.device import AttentionName
from qvg.ops.attention import partial_attention
from qvg.ops.attention.flash import installed

HEADS, QUERIES, KEYS = 4, 4_680, 9_360  # a block of Self-Forcing's queries on six frames
TIMES = 5
MARGIN = 0.95  # what is only a little faster now may not be next time, and then videos would differ
TOLERANCE = 0.02  # of the output, relative: two BF16 kernels are within 0.005 of each other
_log = logging.getLogger(__name__)


@lru_cache(maxsize=16)
def fastest(device: torch.device, head_dim: int, usual: AttentionName) -> tuple[AttentionName, str]:
    """The attention to use for heads of `head_dim` BF16 channels, and why; `usual` unless another is faster.

    Takes some tenths of a second, once a process. What fails or disagrees with `usual` is not used.
    """
    generator = torch.Generator(device).manual_seed(0)
    q = torch.randn(1, HEADS, QUERIES, head_dim, device=device, generator=generator).bfloat16()
    k, v = torch.randn(2, 1, HEADS, KEYS, head_dim, device=device, generator=generator).bfloat16()
    expected = partial_attention(q, k, v, usual).out.float()
    took: dict[AttentionName, float] = {}
    others: list[AttentionName] = [name for name in ("cudnn", "cuda-flash", *installed()) if name != usual]
    for name in (usual, *others):
        try:
            out = partial_attention(q, k, v, name).out.float()
            if not (out - expected).norm() < TOLERANCE * expected.norm():
                _log.warning("%s attention disagrees with %s on %s and is not used", name, usual, device)
                continue
            took[name] = _milliseconds(lambda name=name: partial_attention(q, k, v, name))
        except (RuntimeError, ImportError) as error:
            _log.info("%s attention does not run on %s: %s", name, device, str(error).partition("\n")[0])
    best = min(took, key=lambda name: took[name])
    if took[best] > MARGIN * took[usual]:
        best = usual
    times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in sorted(took.items(), key=lambda item: item[1]))
    reason = f"measured here on {QUERIES:,} queries and {KEYS:,} keys of {head_dim} channels: {times}"
    _log.info("attention on %s: %s, %s", device, best, reason)
    return best, reason


def _milliseconds(call: Callable[[], object]) -> float:
    call()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(TIMES + 1)]
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    marks[-1].synchronize()
    return median(before.elapsed_time(after) for before, after in pairwise(marks))
