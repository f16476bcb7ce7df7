"""Example runs that start with one click, each of one feature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from backends import registry
from backends.base import BackendSpec
from ui.form.values import Form, default_form


@dataclass(frozen=True, slots=True)
class Example:
    """An example: the values that differ from the default form, and a sentence about it."""

    name: str
    summary: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    model: str = "pocket"

    def form(self) -> tuple[BackendSpec, Form]:
        """Returns the model and the form of the example."""
        spec = registry.find(self.model)
        return spec, replace(default_form(spec), **self.changes)


EXAMPLES = (
    Example("Look away and back", "Turn away from a world, come back to it: on a 2-bit memory."),
    Example(
        "Who remembers?",
        "23 MiB for each: BF16 has to forget, 2 bits do not.",
        {
            "memory": "compare",
            "sides": ("BF16", "QVG INT2"),
            "path": "right-40, left-40",
            "blocks": 20,
            "budget": 23,
            "when_full": "drop",
        },
    ),
    Example(
        "Which codec?",
        "BF16, QVG, QVG-Max and KIVI beside each other, from one seed.",
        {
            "memory": "compare",
            "sides": ("BF16", "QVG INT2", "QVG-Max", "KIVI INT2"),
            "path": "right-24, left-24",
            "blocks": 12,
        },
    ),
    Example(
        "Drive",
        "Walk with W A S D and turn with the arrows while it is being made.",
        {
            "path": "",
            "blocks": 60,
            # The way ahead is free.
            "prompt": "a yellow ball on the left, two purple boxes on the right, meadow, dusk",
        },
    ),
)


def named(name: str) -> Example | None:
    """Returns the example called `name`, if there is one."""
    return next((example for example in EXAMPLES if example.name == name), None)
