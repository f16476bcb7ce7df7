"""Editor of the camera path: a map to draw it on, a timeline, a pad. The text field is authoritative."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import gradio as gr

from ui import text
from ui.components.base import html


class PadKey(NamedTuple):
    """A button of the pad: its key, its face, and its name for screen readers."""

    key: str
    face: str
    name: str


PAD = (
    PadKey("left", "↶", "Turn left"),
    PadKey("w", "W", "Walk forward"),
    PadKey("right", "↷", "Turn right"),
    PadKey("a", "A", "Step left"),
    PadKey("s", "S", "Walk back"),
    PadKey("d", "D", "Step right"),
    PadKey("up", "⤒", "Look up"),
    PadKey("still", "•", "Stay still"),
    PadKey("down", "⤓", "Look down"),
)


def component(
    scale: Mapping[str, Any],
    presets: Sequence[tuple[str, str]],
    constants: Mapping[str, Any],
    answers: Sequence[Callable[..., Any]],
) -> gr.HTML:
    """Returns the editor. `scale` is how far a key moves the camera in a latent frame, `presets` are names
    with their paths.

    `constants` are values for camera_path.js, `answers` the functions that the scripts call: `follow` (a
    drawing), `read` (a file) and `write` (a file).
    """
    return html(
        "camera",
        dict(scale),
        scripts=("camera_path", "camera_map", "camera_timeline"),
        constants=constants,
        server_functions=answers,
        elem_id="camera",
        faces={key.key: key.face for key in PAD},
        pad=[key._asdict() for key in PAD],
        presets=[{"name": name, "path": path} for name, path in presets],
        words=text.CAMERA,
    )
