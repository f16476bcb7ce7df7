"""Event handlers: the only modules that know widgets and runs."""
