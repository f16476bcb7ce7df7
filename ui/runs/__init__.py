"""Runs: queue, progress, files, history, and the values that the page shows of them."""
