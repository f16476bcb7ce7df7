"""A ZeroGPU Space without a GPU, as a program: `python -m tests.backends.runtime.zerogpu_space PORT OUTPUTS`.

`spaces` sees no torch, and so does nothing to it; the processes it forks compute on the CPU.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

sys.modules["torch"] = None  # type: ignore[assignment]
import spaces  # noqa: E402, F401

del sys.modules["torch"]

if __name__ == "__main__":
    port, outputs = sys.argv[1:]
    sys.argv = ["app.py", "--port", port, "--outputs", outputs]
    program: Any = str(Path(__file__).resolve().parents[3] / "app.py")
    runpy.run_path(program, run_name="__main__")
