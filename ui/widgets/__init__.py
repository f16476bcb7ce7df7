"""Gradio widgets in their layout: inputs and outputs."""
