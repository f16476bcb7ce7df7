"""Steering from the player, while a run is being made."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ui.runs.manager import RunManager


def steering(manager: RunManager) -> Callable[[dict[str, Any]], bool]:
    """Returns what the player calls, under the name it calls it by."""

    def steer(asked: dict[str, Any]) -> bool:
        """{"run", "keys", "visitor"}: keys held from now on. Returns whether there is something of this
        visitor's to steer: a run's id is in the addresses of its videos, which may be handed on."""
        if not isinstance(asked, dict):
            return False
        run_id = str(asked.get("run", "")).rpartition(".")[0]
        record = manager.find(manager.owner(asked.get("visitor")), run_id)
        keys = asked.get("keys")
        if record is None or record.ended or not isinstance(keys, list):
            return False
        try:
            record.run.steer(tuple(map(str, keys)))
        except ValueError:
            return False
        return True

    return steer
