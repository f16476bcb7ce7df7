"""Errors of launching a kernel."""

from __future__ import annotations


class KernelUnavailable(RuntimeError):
    """A kernel was not launched, and never will be here; nothing was written. The message is a sentence."""
