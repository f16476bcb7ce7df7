"""compute-sanitizer over every preset and both attention widths: QVG_SANITIZER=1, on a GPU.

It is in the CUDA toolkit, takes minutes, and finds reads and writes that no comparison shows.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
SANITIZER = shutil.which("compute-sanitizer", path=f"{os.environ.get('PATH', '')}:/usr/local/cuda/bin")

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.skipif("QVG_SANITIZER" not in os.environ, reason="takes minutes: set QVG_SANITIZER=1"),
    pytest.mark.skipif(SANITIZER is None, reason="needs compute-sanitizer, of the CUDA toolkit"),
]

# Awkward lengths; no caching allocator, so that memory ends where tensors do.
EVERYTHING = """
import torch
from qvg import PRESETS, CacheGeometry, CachePolicy, KVCache, attend
from qvg.ops.eight_bit import supports
from qvg.ops.kernels import refused
from qvg.rope import grid_rope
for head_dim, pairs in ((128, (22, 21, 21)), (64, (12, 10, 10))):
    rope = grid_rope(64, 5, 7, pairs, device="cuda")
    geometry = CacheGeometry(layers=1, heads=3, head_dim=head_dim, tokens_per_frame=35)
    for name, codec in PRESETS.items():
        for bits in (16, 8):
            try:
                codec.stored_bytes(1, 3, 1, head_dim)
            except ValueError:
                continue
            if bits == 8 and supports(torch.device("cuda"), head_dim):
                continue
            policy = CachePolicy(every=3, recent=1, attention_bits=bits)
            cache = KVCache(geometry, codec, policy, frames_per_block=3, device="cuda")
            for _ in range(8):
                k, v = torch.randn(2, 1, 3, 105, head_dim, device="cuda").bfloat16()
                cache.layer(0).stage(k, v)
                attend(torch.randn(1, 3, 77, head_dim, device="cuda").bfloat16(), cache.layer(0), rope)
                cache.commit()
torch.cuda.synchronize()
assert refused() == [], refused()
print("all presets ran")
"""


def test_no_kernel_reads_or_writes_beyond_its_tensors() -> None:
    assert SANITIZER is not None
    ran = subprocess.run(
        [SANITIZER, "--tool", "memcheck", "--error-exitcode", "7", sys.executable, "-c", EVERYTHING],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
        capture_output=True,
        text=True,
        timeout=3600,
    )
    assert "all presets ran" in ran.stdout, ran.stdout[-4000:] + ran.stderr[-4000:]
    assert ran.returncode == 0 and "ERROR SUMMARY: 0 errors" in ran.stdout, ran.stdout[-4000:]
