"""Memory budgets of the slider: a share of the BF16 cache, or the space that a common card leaves."""

from __future__ import annotations

from typing import Any

from backends.base import BackendSpec
from backends.memory_plan import MIB, bf16_bytes

NO_LIMIT = 100  # percent of the BF16 cache
CARDS = {"24 GB card": 24_000_000_000, "32 GB card": 32_000_000_000}


def value(spec: BackendSpec, blocks: int, budget_mib: int) -> dict[str, Any]:
    """Returns the slider's value for a budget in MiB (0 is no limit) and a video of `blocks` blocks."""
    whole = bf16_bytes(spec, blocks)
    share = min(NO_LIMIT, round(NO_LIMIT * budget_mib * MIB / whole)) if budget_mib and whole else NO_LIMIT
    # `budget_mib` is not shown. It makes the value differ from the one before the slider was moved by hand:
    # the page draws only changes.
    return {"share": share, "bf16_mib": whole / MIB, "budget_mib": budget_mib}


def share_of(spec: BackendSpec, blocks: int, percent: int) -> int:
    """Returns the budget in MiB for `percent` of the BF16 cache of `blocks` blocks; 0 (no limit) at 100 %."""
    return 0 if percent >= NO_LIMIT else max(1, round(bf16_bytes(spec, blocks) * percent / 100 / MIB))


def named(name: str, spec: BackendSpec) -> int:
    """Returns the budget in MiB that the card called `name` leaves for the cache; 0 (no limit) for other
    names."""
    return max(1, (CARDS[name] - spec.working_bytes) // MIB) if name in CARDS else 0
