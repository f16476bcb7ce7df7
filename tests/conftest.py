"""Where there is no GPU, Triton's kernels run on the CPU, slowly. Triton asks when it is first imported."""

import os

import torch

# Before any test's own imports: diffusers, too, may bring Triton.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
