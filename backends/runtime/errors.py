"""Error messages: a sentence for the user and a traceback for the log. Nothing here loads torch."""

from __future__ import annotations

import errno
import traceback

from backends.base import BackendUnavailable
from backends.events import Failed

# A failed CPU allocation is a plain RuntimeError: c10/core/impl/alloc_cpu.cpp.
_ALLOCATION_WORDS = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory")
_OWN_WORDS = (LookupError, ValueError)
_LONGEST = 300  # characters of a foreign message that fit a page


def explain(error: Exception, doing: str, held: str = "") -> Failed:
    """Describes `error` for a user.

    `doing` says when it happened ("in block 3 of 12"), `held` what occupied the memory ("3.1 GiB of KV
    cache").
    """
    detail = "".join(traceback.format_exception(error))
    if is_out_of_memory(error) and doing.startswith("while loading"):
        return Failed(
            f"Out of memory {doing}. Close other programs that use this memory, or add swap, and try again; "
            "the files are not at fault.",
            detail,
        )
    if is_out_of_memory(error):
        holding = f", with {held}" if held else ""
        return Failed(
            f"Out of memory {doing}{holding}. Choose a smaller KV cache (2 bits instead of BF16) or fewer "
            "blocks, or close other programs that use this memory. What was made so far is kept.",
            detail,
        )
    text = " ".join(str(error).split())
    if isinstance(error, BackendUnavailable):
        return Failed(text)  # an expected error, whose sentence is complete
    if isinstance(error, _OWN_WORDS) and not isinstance(error, (KeyError, IndexError)):
        return Failed(text, detail)
    shown = text if len(text) <= _LONGEST else text[:_LONGEST].rstrip() + " ..."
    what = f"{type(error).__name__}: {shown}" if shown else type(error).__name__
    return Failed(
        f"An error {doing}: {what}. What was made so far is kept; try again, and the log says where.", detail
    )


def is_out_of_memory(error: Exception) -> bool:
    """Returns whether any device ran out of memory. torch's class is recognized by name, without torch."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in _ALLOCATION_WORDS)
