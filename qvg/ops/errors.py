"""Errors of launching a kernel."""

from __future__ import annotations


class KernelUnavailable(RuntimeError):
    """A kernel cannot run here, now or later; it wrote nothing. The message is a sentence."""
