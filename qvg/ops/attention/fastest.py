"""Choice of a fused attention on a GPU: each is compared with plain torch, and timed, once.

Cards differ: on Hopper FlashAttention 2 takes 1.7 times as long as cuDNN, on Blackwell less than it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from statistics import median
from textwrap import shorten
from typing import NamedTuple

import torch
from torch import Tensor

from qvg.ops.attention import Partial, partial_attention, partial_attention_reference
from qvg.ops.attention.flash import installed
from qvg.ops.attention.names import AttentionName, cudnn_refused

HEADS, QUERIES, KEYS = 4, 4_680, 9_360  # a block of Self-Forcing's queries on six frames
CHECKED = 64  # queries that are compared, spread evenly
ODD = 77  # queries and keys of another trial
SMALLER = (1, 4, 16)  # what queries and keys are divided by where memory is short
TIMES = 5
MARGIN = 0.95  # a smaller gain may not repeat next time, and then videos would differ
TOLERANCE = 0.02  # of the output, relative, and of the log-sum-exp: BF16 kernels are within 0.005
LONGEST = 160  # characters of a foreign message
_log = logging.getLogger(__name__)


class _Trial(NamedTuple):
    """Times of the attentions that run and are right, and why the others are not used."""

    took: Mapping[AttentionName, float]  # milliseconds
    failed: Mapping[AttentionName, str]
    queries: int
    keys: int


def fused_names() -> list[AttentionName]:
    """Returns the fused attentions that torch and installed packages offer on a GPU."""
    cudnn: list[AttentionName] = [] if cudnn_refused() else ["cudnn"]
    return [*cudnn, "cuda-flash", *installed()]


@lru_cache(maxsize=16)
def fastest(device: torch.device, head_dim: int, usual: AttentionName) -> tuple[AttentionName, str]:
    """Returns the attention to use for heads of `head_dim` BF16 channels, and why in a sentence.

    That is `usual` unless it fails or another is faster; plain torch ("math") where every fused one fails.
    An attention fails that cannot run on `device` or disagrees with plain torch. Takes some tenths of a
    second, once a process.
    """
    names: list[AttentionName] = [usual, *(name for name in fused_names() if name != usual)]
    for part in SMALLER:
        try:
            trial = _try(device, head_dim, names, max(1, QUERIES // part), max(1, KEYS // part))
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            _log.info("no memory on %s to try attentions on %s queries: %s", device, QUERIES // part, error)
        else:
            best, reason = _decide(trial, head_dim, usual)
            _log.info("attention on %s: %s: %s", device, best, reason)
            return best, reason
    return usual, f"{usual} is used untried: there was no free memory on {device} to try attentions."


def _try(
    device: torch.device, head_dim: int, names: Sequence[AttentionName], queries: int, keys: int
) -> _Trial:
    """Runs and times `names`. Raises RuntimeError for too little memory."""
    generator = torch.Generator(device).manual_seed(0)
    q = torch.randn(1, HEADS, queries, head_dim, device=device, generator=generator).bfloat16()
    k, v = torch.randn(2, 1, HEADS, keys, head_dim, device=device, generator=generator).bfloat16()
    # Not all lengths are whole tiles, and a cache passes some tokens of a longer buffer.
    odd = (q[:, :, 1 : 1 + ODD], k[:, :, 1 : 1 + ODD], v[:, :, 1 : 1 + ODD])
    inputs = ((q, k, v), odd)
    expected = [partial_attention_reference(_some(q), k, v) for q, k, v in inputs]
    took: dict[AttentionName, float] = {}
    failed: dict[AttentionName, str] = {}
    for name in names:
        try:
            found = [partial_attention(*each, name) for each in inputs]
            if not all(map(_agree, found, expected)):
                failed[name] = "it disagrees with plain torch"
                continue
            took[name] = _milliseconds(lambda name=name: partial_attention(q, k, v, name))
        except Exception as error:  # packages fail to load and to run in ways of their own
            if _is_out_of_memory(error):
                raise
            failed[name] = shorten(str(error), LONGEST).rstrip(".") or type(error).__name__
    return _Trial(took, failed, queries, keys)


def _some(x: Tensor) -> Tensor:
    """Returns CHECKED of the queries x [B, H, Q, ...]: the reference takes long for all of them."""
    return x[:, :, :: -(-x.shape[2] // CHECKED)]


def _agree(found: Partial, expected: Partial) -> bool:
    """Returns whether `found`, of all queries, is `expected`, of some; never where there are NaN."""
    out, lse = expected.out.float(), expected.lse
    off = (_some(found.out).float() - out).norm() / out.norm()
    return bool(off < TOLERANCE) and bool((_some(found.lse) - lse).abs().max() < TOLERANCE)


def _decide(trial: _Trial, head_dim: int, usual: AttentionName) -> tuple[AttentionName, str]:
    """Returns the name to use and the reason."""
    took = trial.took
    best: AttentionName = min(took, key=lambda name: took[name]) if took else "math"
    if usual in took and took[best] > MARGIN * took[usual]:
        best = usual
    times = ", ".join(f"{name} {ms:.2f} ms" for name, ms in sorted(took.items(), key=lambda item: item[1]))
    sentences = [
        f"{best} was chosen by times measured here on {trial.queries:,} queries and {trial.keys:,} keys of "
        f"{head_dim} channels: {times}."
        if took
        else "No fused attention runs here: plain torch attends, several times slower."
    ]
    sentences += [f"{name} attention cannot be used: {why}." for name, why in trial.failed.items()]
    if "cudnn" not in (*took, *trial.failed) and (why := cudnn_refused()):
        sentences.append(why)
    return best, " ".join(sentences)


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in str(error).lower()


def _milliseconds(call: Callable[[], object]) -> float:
    call()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(TIMES + 1)]
    marks[0].record()
    for mark in marks[1:]:
        call()
        mark.record()
    marks[-1].synchronize()
    return median(before.elapsed_time(after) for before, after in pairwise(marks))
