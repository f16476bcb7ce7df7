"""Player of a run: feeds MediaSources with segment addresses taken from its value.

`ui.runs.player_view` makes and describes the value. Gradio sends only its changes. Tracks play in step:
beside each other, one wiped over another, or as their difference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from ui import text
from ui.components.base import html
from ui.components.camera import PAD

MAX_GAIN = 32


def component(value: Mapping[str, Any], steer: Callable[[dict[str, Any]], bool]) -> gr.HTML:
    """Returns the player. `steer` is called with the pressed keys and the run: {"run", "keys", "visitor"}."""
    return html(
        "player",
        dict(value),
        scripts=("track", "steering", "player"),
        server_functions=[steer],
        elem_id="player",
        download=text.DOWNLOAD,
        max_gain=MAX_GAIN,
        words={
            "difference": text.DIFFERENCE_ALT,
            "empty": text.EMPTY_SCREEN,
            "waiting": text.WAITING_SCREEN,
            "back": text.FRAME_BACK,
            "on": text.FRAME_ON,
            "position": text.POSITION,
            "view": text.VIEW,
            "against": text.AGAINST,
            "wipe": text.VIEW_WIPE,
            "gain": text.GAIN,
            "revisit": text.REVISIT_NOTE,
            "drive": text.DRIVE,
            "keys": text.DRIVE_KEYS,
        },
        pad=[key._asdict() for key in PAD if key.key != "still"],
        views=[
            {"value": "beside", "name": text.VIEW_BESIDE},
            {"value": "wipe", "name": text.VIEW_WIPE},
            {"value": "difference", "name": text.VIEW_DIFFERENCE},
        ],
    )
