"""The real program and a tiny HY-WorldPlay: `python -m tests.browser.tiny_worldplay PORT OUTPUTS`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from backends.base import Backend


def load(backend_id: str, device: torch.device, on_status: Callable[[str], None]) -> Backend:
    """For the generator's process."""
    from backends.worldplay.load import load_random

    assert backend_id == "worldplay"
    return load_random(device, on_status, tiny=True)


def main() -> None:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from backends.runtime.worker import Worker
    from backends.worldplay import spec
    from ui.page import build

    # What the page lists; the process loads its own.
    spec.SPEC = spec.TINY
    spec.missing = lambda: None
    port, outputs = int(sys.argv[1]), Path(sys.argv[2])
    worker = Worker("cpu", loaders="tests.browser.tiny_worldplay:load")
    build(worker, outputs).launch(server_name="127.0.0.1", server_port=port)


if __name__ == "__main__":
    main()
