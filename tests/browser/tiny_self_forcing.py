"""The program with a tiny Self-Forcing: `python -m tests.browser.tiny_self_forcing PORT OUTPUTS`.

Its weights are random. Page, worker, the worker's process and every line of the generator are the real ones.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from backends.base import Backend

if TYPE_CHECKING:
    import torch


def load(backend_id: str, device: torch.device, on_status: Callable[[str], None]) -> Backend:
    """What the worker's process loads in place of `backends.registry.load`."""
    import torch

    from backends.self_forcing.load import load_random

    assert backend_id == "self_forcing"
    torch.set_num_threads(1)  # at this size threads cost more than they bring
    return load_random(device, on_status, tiny=True)


def main() -> None:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from backends.runtime.worker import Worker
    from backends.self_forcing import spec
    from ui.page import build

    spec.SPEC, spec.missing = spec.TINY, lambda: None
    port, outputs = int(sys.argv[1]), Path(sys.argv[2])
    build(Worker("cpu", "tests.browser.tiny_self_forcing:load"), outputs).launch(
        server_name="127.0.0.1", server_port=port
    )


if __name__ == "__main__":
    main()
