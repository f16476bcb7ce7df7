"""Runs worth one click, each showing one thing the page is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from backends import registry
from backends.base import BackendSpec
from ui.form import Form, default_form


@dataclass(frozen=True, slots=True)
class Example:
    """What is different from the form as it opens."""

    name: str
    said: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    model: str = "pocket"

    def form(self) -> tuple[BackendSpec, Form]:
        spec = registry.find(self.model)
        return spec, replace(default_form(spec), **self.changes)


EXAMPLES = (
    Example("Look away and back", "One world on a 2-bit memory."),
    Example(
        "Who remembers?",
        "The same memory for all: BF16 must forget, 2 bits need not.",
        {
            "memory": "compare",
            "sides": ("BF16", "QVG INT2"),
            "path": "right-40, left-40",
            "blocks": 20,
            "budget": 34,
            "when_full": "drop",
        },
    ),
    Example(
        "Which codec?",
        "BF16, QVG, KIVI and RTN beside each other, from one seed.",
        {
            "memory": "compare",
            "sides": ("BF16", "QVG INT2", "KIVI INT2", "RTN INT2"),
            "path": "right-20, left-20",
            "blocks": 10,
        },
    ),
    Example(
        "Drive",
        "Walk with W A S D or the arrow keys while it is being made.",
        {"path": "", "blocks": 60, "prompt": "three purple boxes and a yellow ball at dusk"},
    ),
)


def named(name: str) -> Example | None:
    return next((example for example in EXAMPLES if example.name == name), None)
