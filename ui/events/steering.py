"""Event handler for steering from the player, during a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ui.runs.manager import RunManager


def steering(manager: RunManager) -> Callable[[dict[str, Any]], bool]:
    """Returns the server function of the player, named as its script calls it."""

    def steer(query: dict[str, Any]) -> bool:
        """Steers a run: {"run", "keys", "visitor"}, the keys pressed from now on. Returns whether there is a
        run of this visitor to steer: a run's id is in the addresses of its videos, which may be shared, so
        the id alone grants nothing."""
        if not isinstance(query, dict):
            return False
        run_id = str(query.get("run", "")).rpartition(".")[0]
        record = manager.find(manager.owner(query.get("visitor")), run_id)
        keys = query.get("keys")
        if record is None or record.ended or not isinstance(keys, list):
            return False
        try:
            record.run.steer(tuple(map(str, keys)))
        except ValueError:
            return False
        return True

    return steer
