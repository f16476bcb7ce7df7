"""Limits shared by all decoding of untrusted files: how many at once, and how many bytes each."""

from __future__ import annotations

from pathlib import Path
from threading import BoundedSemaphore

AT_ONCE = 2
MOST_BYTES = 64 << 20  # of a file; also the page's upload limit

# Acquired while a picture or a clip is decoded: one of them may need hundreds of megabytes.
turn = BoundedSemaphore(AT_ONCE)


def too_many_bytes(path: Path, most: int) -> str:
    """Returns a sentence for a file of more than `most` bytes, and "" for others. Raises OSError."""
    size = path.stat().st_size
    if size <= most:
        return ""
    return f"This file has {size / (1 << 20):,.0f} MiB; the limit is {most >> 20}. Make it smaller first."
