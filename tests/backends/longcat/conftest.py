"""The same small tensors and the same arithmetic on every machine."""

from tests.qvg.conftest import fp32_reads, one_thread

__all__ = ["fp32_reads", "one_thread"]
