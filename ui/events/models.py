"""Event handlers of the list of models."""

from __future__ import annotations

from typing import Any

import gradio as gr

from backends import registry
from ui.runs.downloads import Models
from ui.widgets import inputs
from ui.widgets.inputs import Inputs

Changes = dict[Any, Any]


class ModelEvents:
    """Event handlers of the list of models."""

    def __init__(self, models: Models, widgets: Inputs, shown: gr.HTML, timer: gr.Timer) -> None:
        self._models = models
        self._widgets = widgets
        self._shown = shown
        self._timer = timer

    def pick(self, event: gr.EventData, model: str) -> Changes:
        """Handles a button of the list: download, stop or delete."""
        backend_id = str(event.id)
        match event.action:
            case "download":
                self._models.download(backend_id, bool(event.accepted), str(event.token))
            case "stop":
                self._models.stop(backend_id)
            case "delete" if outcome := self._models.delete(backend_id):
                gr.Info(outcome)
        return self.look(model)

    def look(self, model: str) -> Changes:
        """Shows the current state; called every second during a download."""
        entries = registry.entries()
        # Empty if a program names an unknown model.
        abouts = [inputs.about(entry) for entry in entries if entry.spec.id == model]
        changes: Changes = {
            self._shown: self._models.listing(),
            self._timer: gr.Timer(active=self._models.busy),
            self._widgets.model: gr.Dropdown(inputs.choices(entries)),
        }
        if abouts:
            changes[self._widgets.about] = abouts[0]
        return changes
