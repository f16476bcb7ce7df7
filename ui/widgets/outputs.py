"""Output widgets: where a run is shown, and the buttons that act on it. Their handlers are in
`ui.events.runs`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gradio as gr

from ui import text
from ui.components import file_saver, player, run_lists, status
from ui.components.base import html
from ui.runs import lists_view, player_view, status_view
from ui.runs.panels import PANELS
from ui.runs.presenter import View

MAX_MORE = 64  # blocks that Extend can add at once


class Outputs(NamedTuple):
    """The widgets that follow a run. `run_id` is the run they show, `visitor` the viewer's name."""

    shown: dict[str, gr.HTML]  # components of a View, by name: the player, the status and every panel
    actions: gr.Row
    again: gr.Button
    more: gr.Number
    extend: gr.Button
    undo: gr.Button
    redo: gr.Button
    retake: gr.Button
    export: gr.Row
    export_video: gr.Button
    export_gif: gr.Button
    export_webp: gr.Button
    export_json: gr.Button
    saved: gr.HTML
    queue: gr.HTML
    history: gr.HTML
    run_id: gr.State
    visitor: gr.BrowserState

    @property
    def all(self) -> list[Any]:
        """Returns all widgets."""
        return [*self.shown.values(), *(part for part in self if part is not self.shown)]

    def showing(self, view: View, **player: Any) -> dict[Any, Mapping[str, Any]]:
        """Returns the changes that show `view`; `player` are further values for the player."""
        values = view.shown | {"player": view.player | player}
        return {self.shown[name]: value for name, value in values.items()}


def build_outputs(
    first: Mapping[str, Mapping[str, Any]],
    steer: Callable[[dict[str, Any]], bool],
    visitor: gr.BrowserState,
) -> Outputs:
    """Returns the widgets beside the form, built in the current Gradio context.

    `first` are the values of the panels before any run; `steer` is called with the keys that are pressed.
    """
    shown = {
        "player": player.component(player_view.nothing(224, 128), steer),
        "status": status.component(status_view.line(text.IDLE)),
    }
    with gr.Row(elem_classes="after", visible=False) as actions:
        again = gr.Button(text.AGAIN, size="sm", elem_id="again")
        with gr.Row(elem_classes="extend"):
            more = gr.Number(
                value=4,
                precision=0,
                minimum=1,
                maximum=MAX_MORE,
                label=text.MORE,
                min_width=60,
                elem_id="more",
            )
            extend = gr.Button(text.EXTEND, size="sm", elem_id="extend")
        undo = gr.Button(text.UNDO_BLOCK, size="sm", elem_id="undo")
        redo = gr.Button(text.REDO_BLOCK, size="sm", elem_id="redo")
        retake = gr.Button(text.RETAKE, size="sm", elem_id="retake")
    with gr.Row(elem_classes="after", visible=False) as export:
        export_video = gr.Button(text.EXPORT_VIDEO, size="sm", elem_id="export-video")
        export_gif = gr.Button(text.EXPORT_GIF, size="sm", elem_id="export-gif")
        export_webp = gr.Button(text.EXPORT_WEBP, size="sm", elem_id="export-webp")
        export_json = gr.Button(text.EXPORT_JSON, size="sm", elem_id="export-json")
    saved = file_saver.component()
    for panel in PANELS:
        shown[panel.name] = html(
            panel.component, dict(first[panel.name]), elem_id=panel.name, words=dict(panel.words)
        )
    return Outputs(
        shown=shown,
        actions=actions,
        again=again,
        more=more,
        extend=extend,
        undo=undo,
        redo=redo,
        retake=retake,
        export=export,
        export_video=export_video,
        export_gif=export_gif,
        export_webp=export_webp,
        export_json=export_json,
        saved=saved,
        queue=run_lists.queue(lists_view.queue_of([])),
        history=run_lists.history(lists_view.history_of([], "", False)),
        run_id=gr.State(""),
        visitor=visitor,
    )
