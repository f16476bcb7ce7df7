"""Event handlers of the form: changes of one widget that update others."""

from __future__ import annotations

from typing import Any

import gradio as gr

from backends import registry
from backends.base import BackendSpec
from backends.camera import PathError, format_path, is_json, parse_path
from backends.plain_text import read_number
from backends.runtime.worker import DeviceInfo
from qvg.config import PRESETS, PRQConfig
from ui import safe_json, text
from ui.components import chips
from ui.components.note import NOTHING
from ui.form import budget_share, camera_path
from ui.form.clips import ClipError, read_clip
from ui.form.pictures import PictureError, read_picture
from ui.form.values import CODEC_NUMBERS, POLICY_NUMBERS, QUANTIZED, Form, FormError, default_form
from ui.format import length
from ui.runs import gauge_view
from ui.runs.manager import TimedWorker, WorkerLike
from ui.widgets import inputs
from ui.widgets.inputs import Inputs
from ui.widgets.outputs import Outputs

Changes = dict[Any, Any]  # component -> new value; the others keep theirs

# Fields of `Form` by name, in the order in which their values arrive.
PLANNED = (
    "path", "memory", "sides", "budget", "when_full", "preset", "blocks", "as_path",
    *CODEC_NUMBERS, *POLICY_NUMBERS,
)  # fmt: skip
NUMBERS = ("seed", "budget", "blocks", *CODEC_NUMBERS, *POLICY_NUMBERS)
OPTIONS = tuple(f"option{number}" for number in range(1, inputs.MOST_OPTIONS + 1))
ASKED = ("prompt", "picture", "clip", "changes", "preview", "seed", "mode", *OPTIONS, *PLANNED)


def widgets_of(ui: Inputs, names: tuple[str, ...]) -> list[Any]:
    """Returns the widgets of the fields in `PLANNED` or `ASKED`."""
    options = dict(zip(OPTIONS, ui.options, strict=True))
    return [options[name] if name in options else getattr(ui, name) for name in names]


def read(names: tuple[str, ...], values: tuple[Any, ...]) -> Form:
    """Returns the form from the values of the fields `names`."""
    given = {
        name: _number(value) if name in NUMBERS else value for name, value in zip(names, values, strict=True)
    }
    chosen = [given.pop(name, None) for name in OPTIONS]
    return Form(**given, options=tuple(chosen))


def _number(value: Any) -> Any:
    """Returns the value of a number field; text is parsed as typed."""
    return safe_json.number(read_number(value) if isinstance(value, str) else value)


def filled(ui: Inputs, spec: BackendSpec, form: Form) -> Changes:
    """Returns the changes that fill the widgets from `form`, for its model."""
    preset = form.preset or QUANTIZED[0]
    return model_changes(ui, spec, form) | {
        ui.model: spec.id,
        ui.prompt: form.prompt,
        ui.picture: gr.File(value=form.picture, visible="image" in spec.inputs),
        ui.clip: gr.File(value=form.clip, visible="clip" in spec.inputs),
        ui.changes: gr.Textbox(value=form.changes, visible="changes" in spec.inputs),
        ui.preview: gr.Checkbox(value=form.preview, visible="preview" in spec.inputs),
        ui.seed: form.seed,
        ui.path: form.path,
        ui.memory: gr.Radio(choices=inputs.memory_choices(preset), value=form.memory),
        ui.sides: gr.Dropdown(
            list(PRESETS),
            value=list(form.sides or ()),
            multiselect=True,
            visible=form.memory == inputs.COMPARE,
        ),
        ui.preset: gr.Dropdown(list(QUANTIZED), value=preset, visible=form.memory == inputs.QUANTIZED_CHOICE),
        ui.advanced: gr.Accordion(label=text.advanced(preset)),
        ui.budget: form.budget,
        ui.when_full: gr.Radio(value=form.when_full, visible=bool(form.budget)),
        ui.randomize: False,
    }


def model_changes(ui: Inputs, spec: BackendSpec, form: Form) -> Changes:
    """Returns the changes for a model: its inputs shown, and its default numbers."""
    entry = next(entry for entry in registry.entries() if entry.spec.id == spec.id)
    steered = "camera" in spec.inputs
    return {
        ui.about: inputs.about(entry),
        ui.examples: chips.groups([("", spec.examples)]),
        ui.vocabulary_fold: gr.Accordion(visible=bool(spec.vocabulary)),
        ui.vocabulary: chips.groups(spec.vocabulary),
        ui.picture: gr.File(visible="image" in spec.inputs),
        ui.clip: gr.File(visible="clip" in spec.inputs),
        ui.changes: gr.Textbox(visible="changes" in spec.inputs),
        ui.preview: gr.Checkbox(visible="preview" in spec.inputs),
        **dict(zip(ui.options, inputs.options(spec, form.options or ()), strict=True)),
        ui.camera: gr.Column(visible=steered),
        ui.map: camera_path.scale_of(spec),
        ui.blocks: gr.Slider(maximum=spec.max_blocks, value=form.blocks),
        ui.as_path: gr.Checkbox(visible=steered, value=form.as_path),
        ui.mode: inputs.modes(spec, form.mode or ""),
        **policy_numbers(ui, form),
        **codec_numbers(ui, form),
    }


def codec_numbers(ui: Inputs, form: Form) -> Changes:
    """Returns the changes of the codec's numbers, shown only for presets with codebooks."""
    shown = isinstance(PRESETS.get(form.preset or ""), PRQConfig)
    return {
        getattr(ui, name): gr.Number(value=getattr(form, name) if shown else None, visible=shown)
        for name in CODEC_NUMBERS
    }


def policy_numbers(ui: Inputs, form: Form) -> Changes:
    """Returns the changes of the cache policy's numbers."""
    return {getattr(ui, name): getattr(form, name) for name in POLICY_NUMBERS}


class FormEvents:
    """Event handlers of the form, shared by all visitors."""

    def __init__(self, worker: WorkerLike, widgets: Inputs, outputs: Outputs) -> None:
        self._worker = worker
        self._widgets = widgets
        self._outputs = outputs

    def choose_model(self, model: str, preset: str) -> Changes:
        spec = registry.find(model)
        return model_changes(self._widgets, spec, default_form(spec, preset)) | {self._widgets.budget: 0}

    def choose_mode(self, model: str, preset: str, mode: str | None) -> Changes:
        ui, spec = self._widgets, registry.find(model)
        form = default_form(spec, preset, mode or "")
        changes: Changes = {ui.mode: inputs.modes(spec, mode or "")}
        return changes | policy_numbers(ui, form)

    def choose_preset(self, model: str, preset: str) -> Changes:
        radio = gr.Radio(choices=inputs.memory_choices(preset))
        form = default_form(registry.find(model), preset)
        advanced = gr.Accordion(label=text.advanced(preset))
        changes: Changes = {self._widgets.memory: radio, self._widgets.advanced: advanced}
        return changes | codec_numbers(self._widgets, form)

    def choose_memory(self, memory: str) -> Changes:
        ui = self._widgets
        return {
            ui.sides: gr.Dropdown(visible=memory == inputs.COMPARE),
            ui.preset: gr.Dropdown(visible=memory == inputs.QUANTIZED_CHOICE),
        }

    def choose_budget(self, memory: float | None) -> Changes:
        return {self._widgets.when_full: gr.Radio(visible=bool(memory))}

    def set_budget(self, event: gr.EventData, model: str, *values: Any) -> Changes:
        """Sets the budget after the slider was released, or a button of a common budget clicked."""
        ui, spec = self._widgets, registry.find(model)
        blocks = _length(read(PLANNED, values), spec)
        share = getattr(event, "share", None)
        if isinstance(share, (int, float)):
            return {ui.budget: budget_share.share_of(spec, blocks, int(share))}
        return {ui.budget: budget_share.named(str(event.name), spec)}

    def draw_path(self, model: str, path: str | None) -> Changes:
        """Shows the length of a path, or what is wrong with it. Replaces JSON by moves."""
        ui, spec = self._widgets, registry.find(model)
        try:
            moves = parse_path(path or "", spec.metres_per_latent, spec.degrees_per_latent)
        except PathError as error:
            return {ui.path_note: inputs.note(str(error), "bad")}
        changes: Changes = {ui.path_note: inputs.path_note(moves)}
        if is_json(path or ""):
            changes[ui.path] = format_path(moves)
        return changes

    def look_at_clip(self, model: str, clip: str | None) -> Changes:
        """Shows the length and size of an uploaded clip, or what is wrong with it."""
        note = NOTHING
        if clip:
            spec = registry.find(model)
            try:
                frames = read_clip(clip, spec)
                note = inputs.note(text.clip_taken(len(frames), spec.fps, *frames.shape[2:0:-1]))
            except ClipError as error:
                note = inputs.note(str(error), "bad")
        return {self._widgets.clip_note: note}

    def look_at_picture(self, picture: str | None) -> Changes:
        """Shows an uploaded picture, or what is wrong with it."""
        note = NOTHING
        if picture:
            try:
                note = inputs.thumbnail(read_picture(picture))
            except PictureError as error:
                note = inputs.note(str(error), "bad")
        return {self._widgets.picture_note: note}

    def foresee(self, run_id: str, model: str, *values: Any) -> Changes:
        """Shows length, memory and budget as text, and the gauge before the first run."""
        ui = self._widgets
        spec = registry.find(model)
        device = self._worker.info
        form = read(PLANNED, values)
        # Also for a budget that is too small, so that the slider can be moved from there.
        slider = budget_share.value(spec, _length(form, spec), int(form.budget or 0))
        try:
            blocks = form.length(spec)
            sides = form.named_sides(spec)
            plans = form.plans(spec, device)
        except FormError as error:
            # Errors of the path have their own line.
            words = "" if isinstance(error.__cause__, PathError) else str(error)
            return {
                ui.length_note: inputs.note(words, "bad"),
                ui.memory_note: NOTHING,
                ui.budget_note: NOTHING,
                ui.budgets: slider,
            }
        duration = length(blocks, spec.video_frames(blocks), spec.fps)
        if len(sides) == 1:
            (plan,) = plans
            fate = f"{text.ends_at(plan.kv_bytes, plan.bf16_bytes)} {plan.sentence} {plan.loading}".rstrip()
            fits = plan.fits
        else:
            needs = spec.working_bytes + sum(plan.needs_bytes - spec.working_bytes for plan in plans)
            fits = None if device is None else needs <= device.memory_bytes
            fate = text.together(needs, device.memory_bytes if device else 0, fits)
        if isinstance(self._worker, TimedWorker):
            fate += f" {text.lent(self._worker.seconds(spec.id, sum(side.blocks(blocks) for side in sides)))}"
        fates = [
            f"{side.name}: {words}"
            for side in sides
            if (words := text.fate(side.drops_from, side.ends_after, spec.video_frames))
        ]
        limit = int(form.budget or 0)
        changes: Changes = {
            ui.length_note: inputs.note(duration),
            ui.memory_note: inputs.note(fate, "bad" if fits is False else "plain"),
            ui.budget_note: inputs.note(text.budget_in_words(limit, fates)) if limit else NOTHING,
            ui.budgets: slider,
        }
        if not run_id:
            changes[self._outputs.shown["gauge"]] = gauge_view.planned(spec, sides, blocks, limit, device)
        return changes

    def foresee_in_words(self, run_id: str, model: str, *values: Any) -> Changes:
        """Shows the same as `foresee`, without the gauge."""
        changes = self.foresee(run_id, model, *values)
        changes.pop(self._outputs.shown["gauge"], None)
        return changes

    def look_for_device(self) -> tuple[Any, Any]:
        """Shows the device once it is known, and then stops the timer that calls this."""
        info = self._worker.info
        if info is None:
            return gr.skip(), gr.skip()
        return device_line(info), gr.Timer(active=False)


def _length(form: Form, spec: BackendSpec) -> int:
    """Returns the form's number of blocks; the model's default if it is invalid."""
    try:
        return form.length(spec)
    except FormError:
        return spec.default_blocks


def device_line(info: DeviceInfo) -> str:
    """Returns the device's name and memory as text."""
    return text.device(info.name, info.memory_bytes)
