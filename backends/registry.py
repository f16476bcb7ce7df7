"""The list of generators, found without loading any of them.

Each is a folder `backends/<id>/`: `spec.py` (SPEC and `missing()`, free of torch) and `load.py` (`load`).
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING

from backends.base import Backend, BackendSpec, BackendUnavailable
from backends.plain_text import excerpt

if TYPE_CHECKING:
    import torch

IDS = ("pocket", "self_forcing", "worldplay", "longcat")


class UnknownBackend(LookupError):
    """Raised for an id that no generator has; the message lists the known ones."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A generator as the picker lists it. `missing` is the reason why it cannot run here; None if it can."""

    spec: BackendSpec
    missing: str | None


def specs() -> tuple[BackendSpec, ...]:
    """Returns every generator's spec, in the order of the picker."""
    return tuple(_described(backend_id).SPEC for backend_id in IDS)


def entries() -> tuple[Entry, ...]:
    """Returns every generator and whether it can run, checked at each call: weights may have arrived."""
    return tuple(_entry(backend_id) for backend_id in IDS)


def find(backend_id: str) -> BackendSpec:
    """Returns the spec of the generator `backend_id`. Raises UnknownBackend."""
    return _described(backend_id).SPEC


def load(backend_id: str, device: torch.device, on_status: Callable[[str], None]) -> Backend:
    """Loads a backend, calling `on_status` with a sentence before each slow step.

    Raises UnknownBackend, BackendUnavailable.
    """
    entry = _entry(backend_id)
    if entry.missing is not None:
        raise BackendUnavailable(f"{entry.spec.title} cannot run here. {entry.missing}")
    return importlib.import_module(f"backends.{backend_id}.load").load(device, on_status)


def _entry(backend_id: str) -> Entry:
    described = _described(backend_id)
    return Entry(described.SPEC, described.missing())


def _described(backend_id: str) -> ModuleType:
    if backend_id not in IDS:
        raise UnknownBackend(f"there is no generator {excerpt(backend_id)}: choose one of {', '.join(IDS)}")
    return importlib.import_module(f"backends.{backend_id}.spec")
