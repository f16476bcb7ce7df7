"""Adapter to a checkout of the authors' code (github.com/svg-project/Quant-VideoGen), timed beside ours."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import Tensor

GROUP, BITS = 64, 2


class Reference:
    """Quant VideoGen's kernels at S1 B64 INT2 (its Self-Forcing script), with `iterations` of k-means.

    Raises SystemExit with a sentence where they cannot be imported.
    """

    def __init__(self, folder: Path, iterations: int) -> None:
        if not (folder / "quant_videogen" / "compress.py").is_file():
            raise SystemExit(f"{folder} is no checkout of Quant-VideoGen: there is no quant_videogen in it")
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
        try:
            self._compress = import_module("quant_videogen.compress")
            functions = import_module("quant_videogen.functions")
            settings = import_module("quant_videogen.sim.quant.quantize_config")
        except ModuleNotFoundError as error:
            raise SystemExit(f"The authors' code needs {error.name}: pip install {error.name}") from None
        self._dequantize = functions.triton_prq_dequantize_tensor
        self._config = settings.QuantizeConfig(
            quant_type=f"triton-nstages-kmeans-int{BITS}",
            num_prq_stages=1,
            quant_block_size=GROUP,
            kmeans_max_iters=iterations,
        )
        self._quantize = self._compress.get_quantize_fn(self._config.quant_type, self._config)

    def encode(self, k: Tensor, v: Tensor) -> tuple[Any, Any]:
        """Encodes k, v [B, H, S, D]."""
        return self._compress.compress_kv_cache(k, v, self._config.quant_type, self._config, self._quantize)

    def decode(self, encoded: Any) -> Tensor:
        return self._dequantize(encoded, GROUP, BITS)
