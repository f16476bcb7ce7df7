"""Result of one side of a run: its blocks as video segments, with measurements."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np

from backends.runtime.jobs import Side
from qvg.stats import CacheStats
from ui.runs.quality import Likeness, likeness, pooled
from ui.runs.revisit import Revisit, Seen

Decibels = float | Literal["equal"] | None
# Ranges in seconds for which PSNR is reported: sides drift apart, so the end says less about a codec than the
# beginning.
SPANS_S = ((0.0, 2.0), (2.0, 5.0))


class Figures(TypedDict):
    """Measurements of a side, as run.json stores them. PSNR in dB, "equal" where it is infinite."""

    codec: str
    ends_after: int | None  # blocks its budget allows
    drops_from: int | None  # the first block (from 0) to miss history
    frames: int
    latents: list[int]  # committed, after every block
    latents_seen: int  # of them visible to attention at the end
    kv_bytes: list[int]  # after every block
    bf16_bytes: list[int]  # of the same visible frames
    kv_parts: dict[str, int]
    scratch_bytes: int
    host_bytes: int  # of the history, in CPU memory
    ratio: float
    ms: dict[str, float]  # per block, by phase
    psnr: Decibels
    ssim: float | None
    psnr_by_block: list[Decibels]
    ssim_by_block: list[float | None]
    psnr_by_span: list[Decibels]  # of SPANS_S
    revisit_psnr: Decibels
    revisit_frames: int


class Block(NamedTuple):
    """A finished block of one side."""

    data: bytes  # fMP4
    frames: int
    stats: CacheStats
    ms: Mapping[str, float]  # by phase
    memory_bytes: int
    seen: Seen
    likeness: Likeness | None  # to the first side; None for that side, and past its end


class SideResult:
    """Blocks of one side, and the measurements computed from them."""

    def __init__(self, side: Side, returning: Mapping[int, int]) -> None:
        self.side = side
        self.mime = ""  # of its segments, with the video codec
        self.blocks: list[Block] = []
        self._revisit = Revisit(returning)

    @property
    def frames(self) -> int:
        return sum(block.frames for block in self.blocks)

    @property
    def stats(self) -> CacheStats | None:
        return self.blocks[-1].stats if self.blocks else None

    @property
    def seen(self) -> Seen:
        """Returns the error of all revisited frames."""
        seen = Seen()
        for block in self.blocks:
            seen = seen.plus(*block.seen)
        return seen

    def look(self, frames: np.ndarray) -> Seen:
        """Compares the frames of the next block, uint8 [T, H, W, 3], with those first seen from the same
        poses."""
        return self._revisit.take(frames, self.frames)

    def likeness(self, seconds: tuple[float, float] | None = None, fps: int = 1) -> Likeness | None:
        """Returns the similarity to the first side, over the blocks that begin within `seconds`, or over all;
        None without any."""
        chosen: list[tuple[Likeness, int]] = []
        start = 0
        for block in self.blocks:
            inside = seconds is None or seconds[0] <= start / fps < seconds[1]
            if inside and block.likeness is not None:
                chosen.append((block.likeness, block.frames))
            start += block.frames
        return pooled(chosen)

    def phases(self) -> dict[str, float]:
        """Returns the milliseconds per block of each phase, as the mean of the last four blocks."""
        newest = self.blocks[-4:]
        names = dict.fromkeys(name for block in newest for name in block.ms)
        return {name: sum(block.ms.get(name, 0.0) for block in newest) / len(newest) for name in names}

    def figures(self, fps: int) -> Figures:
        """Returns the measurements for files, tables and API answers."""
        stats, whole = self.stats, self.likeness()
        likenesses = [block.likeness for block in self.blocks]
        return {
            "codec": self.side.name,
            "ends_after": self.side.ends_after,
            "drops_from": self.side.drops_from,
            "frames": self.frames,
            "latents": [block.stats.total_frames for block in self.blocks],
            "latents_seen": stats.frames if stats else 0,
            "kv_bytes": [block.stats.stored_bytes for block in self.blocks],
            "bf16_bytes": [block.stats.bf16_bytes for block in self.blocks],
            "kv_parts": dict(stats.parts) if stats else {},
            "scratch_bytes": stats.scratch_bytes if stats else 0,
            "host_bytes": stats.host_bytes if stats else 0,
            "ratio": round(stats.ratio, 3) if stats else 1.0,
            "ms": {name: round(ms, 1) for name, ms in self.phases().items()} if self.blocks else {},
            "psnr": _rounded(whole.psnr if whole else None),
            "ssim": _rounded(whole.ssim if whole else None, 4),
            "psnr_by_block": [_rounded(found.psnr) if found else None for found in likenesses],
            "ssim_by_block": [_rounded(found.ssim, 4) if found else None for found in likenesses],
            "psnr_by_span": [
                _rounded(found.psnr if found else None)
                for span in SPANS_S
                for found in [self.likeness(span, fps)]
            ],
            "revisit_psnr": _rounded(self.seen.psnr),
            "revisit_frames": self.seen.frames,
        }


def phases(
    update_ms: float,
    segment_ms: Mapping[str, float],
    stats: CacheStats,
    before: CacheStats | None,
    video_ms: float,
) -> dict[str, float]:
    """Returns where a block's time went, in milliseconds by phase. The phases add up to the block's time.

    "model" is denoising without the cache's share: "read" (decoding spans, attention) and "encode".
    """
    encode = stats.encode_ms - (before.encode_ms if before else 0.0)
    read = stats.read_ms - (before.read_ms if before else 0.0)
    decode = segment_ms.get("decode", 0.0)
    model = segment_ms.get("denoise", update_ms - decode) - encode - read
    parts = {"model": model, "read": read, "encode": encode, "decode": decode}
    parts = {name: max(0.0, ms) for name, ms in parts.items()}
    parts["rest"] = max(0.0, update_ms - sum(parts.values()))
    parts["video"] = video_ms
    return parts


def likeness_to(frames: np.ndarray, reference: np.ndarray | None) -> Likeness | None:
    """Returns the similarity of two blocks, uint8 [T, H, W, 3]; None without an equally shaped reference."""
    if reference is None or reference.shape != frames.shape:
        return None
    return likeness(frames, reference)


def thinned(points: Sequence[Any], most: int) -> list[Any]:
    """Returns about `most` evenly spaced items of `points`, always with the last one."""
    if not points:
        return []
    kept = list(points[:: max(1, len(points) // most)])
    return kept if kept[-1] is points[-1] else [*kept, points[-1]]


def _rounded(value: float | None, digits: int = 2) -> Any:
    """Returns a number for JSON, which has no infinity: the PSNR of equal pictures becomes "equal"."""
    if value is None:
        return None
    return "equal" if value == float("inf") else round(value, digits)
