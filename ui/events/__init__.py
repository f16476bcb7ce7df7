"""Event handlers: the only modules that import both widgets and runs."""
