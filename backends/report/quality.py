"""Difference of a video from BF16's, frame by frame and in time windows.

Two videos from one seed diverge for good once their histories differ: late PSNR says how far they have
drifted, not how good either is. So the windows are short and early.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from qvg.metrics import psnr_of_mse, ssim

FIRST, CHANGED, ALL = "first chunk", "first changed chunk", "all"
# Seconds; None: a block.
WINDOWS: Mapping[str, tuple[float, float | None] | None] = {
    FIRST: None,
    CHANGED: None,
    "0–2 s": (0, 2),
    "2–5 s": (2, 5),
    ALL: (0, None),
}
NO_LPIPS = "LPIPS is left out: pip install lpips, and start again with --fresh."
_BATCH = 8  # frames in one LPIPS call
Perceptual = Callable[[np.ndarray, np.ndarray], list[float]]


class Quality(TypedDict):
    """Figures of one video against BF16's, over the frames that both have."""

    identical_frames: int  # from the beginning
    mse: list[float]  # by frame, for values 0 to 255
    ssim: list[float]
    lpips: list[float] | None
    windows: dict[str, dict[str, Any] | None]


def compare(
    frames: np.ndarray,
    reference: np.ndarray,
    frames_by_block: Sequence[int],
    fps: int,
    lpips: Perceptual | None,
) -> Quality:
    """Returns the figures of two videos uint8 [T, H, W, 3], over the frames that both have.

    `frames_by_block` is the number of frames after every block.
    """
    count = min(len(frames), len(reference))
    mse, similar, perceived = [], [], []
    for start in range(0, count, _BATCH):
        ours, theirs = (
            np.asarray(video[start : min(start + _BATCH, count)]) for video in (frames, reference)
        )
        mse += [
            float(np.mean((a.astype(np.float32) - b) ** 2, dtype=np.float64))
            for a, b in zip(ours, theirs, strict=True)
        ]
        similar += [round(ssim(a, b), 5) for a, b in zip(ours, theirs, strict=True)]
        perceived += lpips(ours, theirs) if lpips is not None else []
    quality: Quality = {
        "identical_frames": next((at for at, error in enumerate(mse) if error), count),
        "mse": [float(f"{error:.6g}") for error in mse],
        "ssim": similar,
        "lpips": perceived if lpips is not None else None,
        "windows": {},
    }
    quality["windows"] = {
        name: figures([(quality, span)]) for name, span in spans(quality, frames_by_block, fps).items()
    }
    return quality


def spans(quality: Quality, frames_by_block: Sequence[int], fps: int) -> dict[str, tuple[int, int]]:
    """Returns the frames [first, end) of every window; an empty range if the video does not reach it."""
    count = len(quality["mse"])
    starts = [0, *frames_by_block]
    blocks = list(zip(starts, frames_by_block, strict=False))
    changed = quality["identical_frames"]
    chunk = next(((start, end) for start, end in blocks if start <= changed < end), (count, count))
    found = {}
    for name, seconds in WINDOWS.items():
        if seconds is None:
            start, end = blocks[0] if name == FIRST else chunk
        else:
            start = round(seconds[0] * fps)
            end = count if seconds[1] is None else round(seconds[1] * fps)
        found[name] = (min(start, count), min(end, count))
    return found


def figures(parts: Iterable[tuple[Quality, tuple[int, int]]]) -> dict[str, Any] | None:
    """Returns the figures of some frames of several videos taken together; None if there are none."""
    mse: list[float] = []
    similar: list[float] = []
    perceived: list[float] = []
    for quality, (start, end) in parts:
        mse += quality["mse"][start:end]
        similar += quality["ssim"][start:end]
        perceived += (quality["lpips"] or [])[start:end]
    if not mse:
        return None
    return {
        "frames": len(mse),
        "psnr": decibels(float(np.mean(mse))),
        "ssim": round(float(np.mean(similar)), 4),
        "lpips": round(float(np.mean(perceived)), 4) if perceived else None,
    }


def decibels(mse: float) -> Any:
    """Returns the PSNR of a mean squared error of values 0 to 255; "equal" for 0, as JSON has no infinity."""
    return round(psnr_of_mse(mse, 255), 2) if mse else "equal"


def find_lpips(device: Any) -> tuple[Perceptual | None, str]:
    """Returns LPIPS on AlexNet (Zhang et al., CVPR 2018), or None and a sentence saying why not."""
    try:
        package = importlib.import_module("lpips")
    except ImportError:
        return None, NO_LPIPS
    import torch

    try:
        # The package downloads its weights at the first construction.
        network = package.LPIPS(net="alex", verbose=False).to(device).eval()
    except (OSError, RuntimeError) as error:
        return None, f"LPIPS is left out: its network could not be loaded ({error})."

    @torch.inference_mode()
    def measure(frames: np.ndarray, reference: np.ndarray) -> list[float]:
        ours, theirs = (
            torch.from_numpy(np.array(video)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1
            for video in (frames, reference)
        )
        return [round(float(value), 5) for value in network(ours, theirs).flatten()]

    return measure, ""
