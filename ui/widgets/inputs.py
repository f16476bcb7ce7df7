"""Input widgets: the form's layout, and the choices it offers for each model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
from gradio.i18n import I18nData

from backends.base import BackendSpec
from backends.camera import CameraMove, parse_path
from backends.registry import Entry
from backends.validation import MAX_PROMPT
from qvg.config import PRESETS
from ui import text
from ui.components import budget_slider, camera, chips, drop_settings, model_about
from ui.components import note as notes
from ui.components.note import Note, note
from ui.form import budget_share, camera_path
from ui.form.pictures import small_jpeg
from ui.form.values import CODEC_NUMBERS, FIRST_SEED, MAX_SIDES, POLICY_NUMBERS, QUANTIZED, default_form

MAX_PATH_CHARACTERS = 400_000  # for a trajectory pasted as JSON
MAX_BUDGET_MIB = 1 << 20
MOST_OPTIONS = 4
BF16, QUANTIZED_CHOICE, COMPARE = "bf16", "quantised", "compare"
Choice = str | int | float | tuple[str | I18nData, str | int | float]


@dataclass(frozen=True, slots=True)
class Inputs:
    """The widgets of the form, with the names of their fields in `ui.form.values.Form`."""

    model: gr.Dropdown
    about: gr.HTML
    manage: gr.Accordion
    prompt: gr.Textbox
    examples: gr.HTML
    vocabulary_fold: gr.Accordion
    vocabulary: gr.HTML
    picture: gr.File
    picture_note: gr.HTML
    clip: gr.File
    clip_note: gr.HTML
    changes: gr.Textbox
    preview: gr.Checkbox
    options: tuple[gr.Dropdown, ...]
    camera: gr.Column
    path: gr.Textbox
    path_note: gr.HTML
    map: gr.HTML
    memory: gr.Radio
    sides: gr.Dropdown
    memory_note: gr.HTML
    budget: gr.Number
    budgets: gr.HTML
    when_full: gr.Radio
    budget_note: gr.HTML
    mode: gr.Dropdown
    blocks: gr.Slider
    as_path: gr.Checkbox
    length_note: gr.HTML
    seed: gr.Number
    randomize: gr.Checkbox
    preset: gr.Dropdown
    advanced: gr.Accordion
    clusters: gr.Number
    group: gr.Number
    stages: gr.Number
    iterations: gr.Number
    every: gr.Number
    sink: gr.Number
    recent: gr.Number
    window: gr.Number
    on_card: gr.Number
    attention_bits: gr.Number
    dropped: gr.File
    problem: gr.HTML
    generate: gr.Button
    stop: gr.Button

    @property
    def codec_numbers(self) -> tuple[gr.Number, ...]:
        return tuple(getattr(self, name) for name in CODEC_NUMBERS)

    @property
    def policy_numbers(self) -> tuple[gr.Number, ...]:
        return tuple(getattr(self, name) for name in POLICY_NUMBERS)


def thumbnail(pixels: np.ndarray) -> Note:
    """Returns the note that shows a picture as it was read: upright and opaque. `pixels`: uint8 [H, W, 3]."""
    height, width, _ = pixels.shape
    return note(text.picture_taken(width, height), picture=small_jpeg(pixels))


def about(entry: Entry) -> dict[str, Any]:
    """Returns the value of the model's description."""
    spec = entry.spec
    rest = spec.needs if entry.missing is None else entry.missing
    return {
        "ready": entry.missing is None,
        "summary": spec.summary,
        "rest": f"{rest} {spec.width} x {spec.height} at {spec.fps} fps. {spec.license}",
    }


def choices(entries: tuple[Entry, ...]) -> list[Choice]:
    """Returns the choices of the model field, with those not downloaded marked."""
    return [
        (
            entry.spec.title if entry.missing is None else f"{entry.spec.title} ({text.NOT_HERE.lower()})",
            entry.spec.id,
        )
        for entry in entries
    ]


def memory_choices(preset: str) -> list[Choice]:
    """Returns the choices of the memory field."""
    return [(preset, QUANTIZED_CHOICE), (text.BF16_CHOICE, BF16), (text.COMPARE_CHOICE, COMPARE)]


def modes(spec: BackendSpec, chosen: str = "") -> gr.Dropdown:
    """Returns the field of the model's modes, with a description of the chosen one or the first; invisible
    for a model without modes."""
    if not spec.modes:
        return gr.Dropdown([], value=None, label=text.MODE, visible=False, elem_id="mode")
    mode = next((mode for mode in spec.modes if mode.id == chosen), spec.modes[0])
    return gr.Dropdown(
        [(each.title, each.id) for each in spec.modes],
        value=mode.id,
        label=text.MODE,
        info=mode.about,
        filterable=False,
        visible=True,
        elem_id="mode",
    )


def options(spec: BackendSpec, chosen: Sequence[str | None] = ()) -> tuple[gr.Dropdown, ...]:
    """Returns the fields of the model's own settings; unused ones are invisible."""
    shown = []
    for number in range(MOST_OPTIONS):
        option = spec.options[number] if number < len(spec.options) else None
        value = chosen[number] if number < len(chosen) else None
        shown.append(
            gr.Dropdown(
                list(option.values) if option else [],
                value=(value if value in option.values else option.values[0]) if option else None,
                label=option.title if option else text.OPTION,
                filterable=False,
                visible=option is not None,
                elem_id=f"option{number + 1}",
            )
        )
    return tuple(shown)


def build(entries: tuple[Entry, ...], answers: Sequence[Callable[..., Any]]) -> Inputs:
    """Returns the form, built in the current Gradio context. `answers` are the server functions of the camera
    map."""
    entry = entries[0]
    spec = entry.spec
    with gr.Column(elem_classes="card"):
        model = gr.Dropdown(
            choices(entries), value=spec.id, label=text.MODEL, filterable=False, elem_id="model"
        )
        about_model = model_about.component(about(entry))
        with gr.Accordion(text.MANAGE, open=False, elem_classes="fold") as manage:
            pass
    with gr.Column(elem_classes="card"):
        prompt = gr.Textbox(
            spec.examples[0] if spec.examples else "",
            label=text.PROMPT,
            placeholder=text.PROMPT_HINT,
            lines=2,
            max_lines=6,
            max_length=MAX_PROMPT,
            elem_id="prompt",
        )
        examples = chips.component([("", spec.examples)], "examples")
        with gr.Accordion(
            text.VOCABULARY, open=False, visible=bool(spec.vocabulary), elem_classes="fold"
        ) as fold:
            vocabulary = chips.component(spec.vocabulary, "vocabulary")
        # gr.File, because gr.Image opens the file itself and reports a bad one in its own words.
        picture = gr.File(
            label=text.PICTURE,
            file_types=["image"],
            type="filepath",
            height=84,
            visible="image" in spec.inputs,
            elem_id="picture",
            elem_classes="drop",
        )
        picture_note = notes.component("picture-note")
        clip = gr.File(
            label=text.CLIP,
            file_types=["video"],
            type="filepath",
            height=84,
            visible="clip" in spec.inputs,
            elem_id="clip",
            elem_classes="drop",
        )
        clip_note = notes.component("clip-note")
        changes = gr.Textbox(
            label=text.CHANGES,
            placeholder=text.CHANGES_HINT,
            info=text.CHANGES_INFO,
            lines=2,
            max_lines=8,
            max_length=20 * MAX_PROMPT,
            visible="changes" in spec.inputs,
            elem_id="changes",
        )
    with gr.Column(elem_classes="card", visible="camera" in spec.inputs) as camera:
        path, path_note, path_map = _camera(spec, answers)
    with gr.Column(elem_classes="card"):
        memory = gr.Radio(
            memory_choices(QUANTIZED[0]),
            value=QUANTIZED_CHOICE,
            label=text.MEMORY,
            elem_id="memory",
            elem_classes="segmented",
        )
        sides = gr.Dropdown(
            list(PRESETS),
            value=list(default_form(spec).sides or ()),
            multiselect=True,
            max_choices=MAX_SIDES,
            label=text.SIDES,
            visible=False,
            elem_id="sides",
        )
        preset = gr.Dropdown(
            list(QUANTIZED), value=QUANTIZED[0], label=text.PRESET, filterable=False, elem_id="preset"
        )
        memory_note = notes.component("memory-note")
        limit = gr.Number(
            value=0,
            precision=0,
            minimum=0,
            maximum=MAX_BUDGET_MIB,
            label=text.BUDGET,
            info=text.BUDGET_INFO,
            elem_id="budget",
        )
        budgets = budget_slider.component(
            budget_share.value(spec, spec.default_blocks, 0), [text.NO_LIMIT, *budget_share.CARDS]
        )
        when_full = gr.Radio(
            [(text.DROP_CHOICE, "drop"), (text.STOP_CHOICE, "stop")],
            value="drop",
            label=text.WHEN_FULL,
            visible=False,
            elem_id="when-full",
            elem_classes="segmented",
        )
        budget_note = notes.component("budget-note")
        mode = modes(spec)
        own = options(spec)
        preview = gr.Checkbox(label=text.PREVIEW, visible="preview" in spec.inputs, elem_id="preview")
    with gr.Column(elem_classes="card"):
        blocks = gr.Slider(
            1,
            spec.max_blocks,
            value=spec.default_blocks,
            step=1,
            precision=0,
            label=text.LENGTH,
            elem_id="blocks",
        )
        as_path = gr.Checkbox(label=text.AS_PATH, value=False, elem_id="as-path")
        length_note = notes.component("length-note")
        with gr.Row(elem_classes="pair"):
            seed = gr.Number(value=FIRST_SEED, precision=0, label=text.SEED, min_width=90, elem_id="seed")
            randomize = gr.Checkbox(label=text.RANDOMIZE, value=False, min_width=90, elem_id="randomize")
        with gr.Accordion(text.advanced(QUANTIZED[0]), open=False, elem_classes="fold") as advanced:
            numbers = _advanced(spec)
        dropped = gr.File(
            label=text.DROP,
            file_types=[".mp4", ".json"],
            type="filepath",
            height=84,
            elem_id="dropped",
            elem_classes="drop",
        )
        drop_settings.component("dropped")
    with gr.Row(elem_classes="actions"):
        problem = notes.component("problem")
        stop = gr.Button(text.STOP, variant="stop", visible=False, elem_id="stop")
        generate = gr.Button(text.GENERATE, variant="primary", elem_id="generate")
    return Inputs(
        model=model,
        about=about_model,
        manage=manage,
        prompt=prompt,
        examples=examples,
        vocabulary_fold=fold,
        vocabulary=vocabulary,
        picture=picture,
        picture_note=picture_note,
        clip=clip,
        clip_note=clip_note,
        changes=changes,
        preview=preview,
        options=own,
        camera=camera,
        path=path,
        path_note=path_note,
        map=path_map,
        memory=memory,
        sides=sides,
        memory_note=memory_note,
        budget=limit,
        budgets=budgets,
        when_full=when_full,
        budget_note=budget_note,
        mode=mode,
        blocks=blocks,
        as_path=as_path,
        length_note=length_note,
        seed=seed,
        randomize=randomize,
        preset=preset,
        advanced=advanced,
        **numbers,
        dropped=dropped,
        problem=problem,
        generate=generate,
        stop=stop,
    )


def path_note(moves: Sequence[CameraMove]) -> Note:
    """Returns the note about a path's length."""
    latents = sum(move.latents for move in moves)
    return note(text.path_length(len(moves), latents) if moves else text.PATH_EMPTY)


def _camera(spec: BackendSpec, answers: Sequence[Callable[..., Any]]) -> tuple[gr.Textbox, gr.HTML, gr.HTML]:
    """Returns the path's text field, its note, and the map."""
    path = gr.Textbox(
        camera_path.FIRST,
        label=text.PATH,
        placeholder=text.PATH_HINT,
        lines=1,
        max_lines=3,
        max_length=MAX_PATH_CHARACTERS,
        elem_id="path",
    )
    line = notes.component("path-note", path_note(parse_path(camera_path.FIRST)))
    path_map = camera.component(
        camera_path.scale_of(spec), camera_path.PRESETS, camera_path.CONSTANTS, answers
    )
    return path, line, path_map


def _advanced(spec: BackendSpec) -> dict[str, gr.Number]:
    """Returns the number fields of codec and cache policy, by name."""
    form = default_form(spec)
    fields = (
        ("clusters", text.CLUSTERS, text.CLUSTERS_INFO),
        ("group", text.GROUP, text.GROUP_INFO),
        ("stages", text.STAGES, text.STAGES_INFO),
        ("iterations", text.ITERATIONS, text.ITERATIONS_INFO),
        ("every", text.EVERY, text.EVERY_INFO),
        ("sink", text.SINK, text.SINK_INFO),
        ("recent", text.RECENT, text.RECENT_INFO),
        ("window", text.WINDOW, text.WINDOW_INFO),
        ("on_card", text.ON_CARD, text.ON_CARD_INFO),
        ("attention_bits", text.ATTENTION_BITS, text.ATTENTION_BITS_INFO),
    )
    with gr.Row(elem_classes="numbers"):
        return {
            name: gr.Number(
                value=getattr(form, name), precision=0, label=label, info=info, min_width=90, elem_id=name
            )
            for name, label, info in fields
        }
