"""One folder an operation: `reference.py` is plain torch, `triton.py` the kernel, `__init__.py` what to call.

`kernels.py` says which of the two takes a tensor. What the kernels share is in `ops/triton.py`.
"""
