"""Operations, a folder each: `reference.py` in plain torch, `triton.py` the kernel, `__init__.py` the entry.

`kernels.py` decides which of the two takes a tensor; `triton.py` is what the kernels share.
"""
