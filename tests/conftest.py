"""Where there is no GPU, Triton's kernels run on the CPU, slowly. Triton asks when it is first imported.

Tests run in two processes; those that drive the page, and watch the clock, keep to one of them.
"""

import os

import pytest
import torch

# Before any test's own imports: diffusers, too, may bring Triton.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the other process has the other core


@pytest.hookimpl(tryfirst=True)  # before xdist looks for groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"browser", "soak"} & set(item.path.parts) or item.path.name == "test_worker.py":
            item.add_marker(pytest.mark.xdist_group("the clock"))
