"""Where there is no GPU, Triton's kernels run on the CPU, slowly. Triton asks when it is first imported.

Tests run in two processes, a file in one of them.
"""

import gc
import os

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # The other process has the other core. Programs that are started take it over.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

# Before any test's own imports: diffusers, too, may bring Triton.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Few tests, but long ones: left for the end, they would run alone.
FIRST = ("browser", "soak")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.parent.name not in FIRST)


@pytest.fixture(scope="module", autouse=True)
def little_to_look_through() -> None:
    """What earlier files imported is not looked through each time a run ends and collects its garbage."""
    gc.collect()
    gc.freeze()
