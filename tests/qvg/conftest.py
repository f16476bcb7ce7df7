"""The same small tensors and the same arithmetic on every machine."""

from collections.abc import Iterator
from importlib.metadata import distributions
from typing import Any

import pytest
import torch
from packaging.version import Version

OLD_TRITON = any(Version(each.version) < Version("3.7") for each in distributions(name="triton"))


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


@pytest.fixture(autouse=True)
def scalars_of_old_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 3.7 Triton's interpreter calls `int` on arrays of one element; NumPy 2.4 refuses."""
    if not OLD_TRITON:
        return
    from triton.runtime import interpreter

    patch_tensor = interpreter._patch_lang_tensor

    def patched(tensor: Any, *scope: Any) -> None:
        patch_tensor(tensor, *scope)
        tensor.__index__ = lambda self: self.handle.data.item()

    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patched)
