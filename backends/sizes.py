"""Byte counts as text: binary units for memory, decimal units for files and downloads."""

from __future__ import annotations


def memory_size(count: float, digits: int = 1) -> str:
    """Returns `23.6 GiB`, `640 MiB` or `12 KiB`. GiB have `digits` decimals, MiB one fewer, KiB none."""
    if count >= 1 << 30:
        return f"{count / (1 << 30):.{digits}f} GiB"
    if count >= 1 << 20:
        return f"{count / (1 << 20):.{max(0, digits - 1)}f} MiB"
    return f"{count / (1 << 10):.0f} KiB"


def file_size(count: float) -> str:
    """Returns `17.5 GB` or `23 MB`, as download pages and disks count."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
