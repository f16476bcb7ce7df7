"""The same small tensors and the same arithmetic on every machine."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For small tensors one is faster than two, and does not fight over a busy machine's cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def fp32_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a CPU without AMX chooses, on every CPU: results are compared to the last digits."""
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
