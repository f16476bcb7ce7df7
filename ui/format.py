"""Number formats of the page: sizes, times, durations, decibels."""

from __future__ import annotations

from backends.sizes import memory_size


def size(count: float) -> str:
    """Returns bytes as `840 KiB`, `63.2 MiB` or `23.60 GiB`."""
    return memory_size(count, digits=2)


def times(ratio: float) -> str:
    """Returns a ratio as `6.2×`."""
    return f"{ratio:.1f}×"


def length(blocks: int, frames: int, fps: int) -> str:
    """Returns the length of a video in blocks, frames and seconds."""
    return f"{plural(blocks, 'block')}, {plural(frames, 'frame')}, {frames / fps:.1f} s at {fps} fps"


def plural(count: int, noun: str) -> str:
    """Returns a count with its noun: `1 frame`, `1,200 frames`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def clock(seconds: float) -> str:
    """Returns seconds as `0:07`, `5:08` or `2:05:08`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def decibels(psnr: float | str) -> str:
    """Returns a PSNR as `31.4 dB`; a word such as "equal" stays."""
    return psnr if isinstance(psnr, str) else f"{psnr:.1f} dB"


def about(seconds: float) -> str:
    """Returns seconds as `about 40 s`, `about 3 min` or `about 1.6 h`."""
    if seconds < 100:
        return f"about {max(1, round(seconds))} s"
    return f"about {round(seconds / 60)} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


def left(seconds: float) -> str:
    """Returns the remaining time as `about 3 min left`."""
    return f"{about(seconds)} left"
