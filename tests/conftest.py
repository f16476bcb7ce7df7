"""Where there is no GPU, Triton's kernels run on the CPU, slowly. Triton asks when it is first imported.

Tests run in two processes, a file in one of them.
"""

import os

import torch

# Before any test's own imports: diffusers, too, may bring Triton.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
if "PYTEST_XDIST_WORKER" in os.environ:
    torch.set_num_threads(1)  # the other process has the other core
