"""One folder an operation: `reference.py` is plain torch, `__init__.py` is what to call."""
