"""Where a run is shown, and what can be done with it: widgets here, behaviour in `ui.events.runs`."""

from __future__ import annotations

from typing import Any, NamedTuple

import gradio as gr

from ui import text
from ui.components import compare_table, file_saver, memory_gauge, player, run_lists, status
from ui.runs import compare_view, lists_view, player_view, status_view

MAX_MORE = 64  # blocks that Extend adds at once


class Stage(NamedTuple):
    """The widgets that follow a run. `run_id` is the run they show, `visitor` who looks."""

    player: gr.HTML
    status: gr.HTML
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
    export_json: gr.Button
    saved: gr.HTML
    compare: gr.HTML
    gauge: gr.HTML
    queue: gr.HTML
    history: gr.HTML
    run_id: gr.State
    visitor: gr.BrowserState


def build_outputs(planned: dict[str, Any], steer: Any) -> dict[str, Any]:
    """The widgets beside the form, in the Gradio context it is called in; `history` and below come later."""
    screen = player.component(player_view.nothing(224, 128), steer)
    line = status.component(status_view.line(text.IDLE))
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
        video = gr.Button(text.EXPORT_VIDEO, size="sm", elem_id="export-video")
        gif = gr.Button(text.EXPORT_GIF, size="sm", elem_id="export-gif")
        json = gr.Button(text.EXPORT_JSON, size="sm", elem_id="export-json")
    saved = file_saver.component()
    table = compare_table.component(compare_view.nothing())
    meter = memory_gauge.component(planned)
    waiting = run_lists.queue(lists_view.queue_of([]))
    return {
        "player": screen,
        "status": line,
        "actions": actions,
        "again": again,
        "more": more,
        "extend": extend,
        "undo": undo,
        "redo": redo,
        "retake": retake,
        "export": export,
        "export_video": video,
        "export_gif": gif,
        "export_json": json,
        "saved": saved,
        "compare": table,
        "gauge": meter,
        "queue": waiting,
    }
