"""The page: what is where, and which event calls which handler."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gradio as gr
from gradio.themes import Base

from backends import registry
from backends.plan import codec_for
from backends.worker import Worker
from ui import chips, controls, gauge, player, pose, status, text
from ui.controls import Controls
from ui.handlers import ASKED, PLANNED, Handlers, Stage, WorkerLike

_CSS = (Path(__file__).parent / "theme.css").read_text(encoding="utf-8")
_VIEWERS = 32  # runs watched at once; the worker does the queueing


class Studio(gr.Blocks):
    """The page with the launch settings it needs, however it is launched: a script, a notebook or a Space."""

    def __init__(self, outputs: Path) -> None:
        super().__init__(
            title=text.TITLE, analytics_enabled=False, fill_width=True, delete_cache=(3600, 24 * 3600)
        )
        self._outputs = outputs

    def launch(self, *args: Any, **kwargs: Any) -> Any:
        """`gr.Blocks.launch`, with this page's looks, and the outputs folder as the only one it serves."""
        defaults: dict[str, Any] = {
            "theme": theme(),
            "css": _CSS + pose.PAD_STYLE,
            "allowed_paths": [str(self._outputs)],
            "run_history": False,
            "footer_links": ["api", "settings"],
            "ssr_mode": False,
            "max_file_size": "64mb",
        }
        return super().launch(*args, **{**defaults, **kwargs})


def theme() -> Base:
    """System fonts only: nothing is fetched."""
    return Base(
        primary_hue="teal",
        secondary_hue="teal",
        neutral_hue="zinc",
        radius_size="md",
        text_size="md",
        font=["ui-sans-serif", "system-ui", "-apple-system", "Segoe UI", "sans-serif"],
        font_mono=["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "monospace"],
    ).set(
        body_background_fill="#f6f6f4",
        body_background_fill_dark="#131416",
        block_background_fill="transparent",
        block_background_fill_dark="transparent",
        block_border_width="0px",
        block_border_width_dark="0px",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_border_width_dark="0px",
        block_padding="0px",
        block_title_text_weight="600",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_text_size="*text_sm",
        block_info_text_size="*text_xs",
        block_info_text_color="*body_text_color_subdued",
        block_info_text_color_dark="*body_text_color_subdued",
        body_text_color_subdued="#63656b",
        body_text_color_subdued_dark="#a2a6ae",
        input_background_fill="white",
        input_background_fill_dark="#1d1f22",
        input_border_width="1px",
        input_border_width_dark="1px",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        layout_gap="14px",
    )


def build(worker: WorkerLike | Worker, outputs: Path) -> Studio:
    """The page for `worker`, keeping videos in `outputs`. Makes no file and starts no process."""
    outputs = outputs.resolve()
    entries = registry.entries()
    spec = entries[0].spec
    with Studio(outputs) as page:
        with gr.Row(elem_classes="top"):
            gr.HTML(
                f"<h1>{text.TITLE}</h1><p>{text.TAGLINE}</p>", elem_classes="brand", apply_default_css=False
            )
            device = gr.HTML(text.DEVICE_UNKNOWN, elem_id="device", apply_default_css=False)
        with gr.Row(elem_classes="columns", equal_height=False):
            with gr.Column(elem_classes="panel", min_width=320, scale=4):
                widgets = controls.build(entries)
            with gr.Column(elem_classes="stage", min_width=320, scale=8):
                screen = player.component()
                line = status.component(text.IDLE)
                codec = codec_for(spec, controls.QUANTISED[0])
                meter = gauge.component(gauge.planned(spec, codec, spec.policy, spec.default_blocks))
        stage = Stage(screen, line, meter, gr.State(""))
        handlers = Handlers(worker, outputs, widgets, stage)
        _connect_form(widgets, stage, handlers)
        _connect_run(widgets, stage, handlers)

        timer = gr.Timer(1.0)
        timer.tick(
            handlers.look_for_device, None, [device, timer], show_progress="hidden", api_visibility="private"
        )
        plan_inputs = [stage.run_id, widgets.model, *(getattr(widgets, name) for name in PLANNED)]
        device.change(
            handlers.foresee,
            plan_inputs,
            _foreseen(widgets, stage),
            show_progress="hidden",
            api_visibility="private",
        )
        page.load(
            handlers.foresee,
            plan_inputs,
            _foreseen(widgets, stage),
            show_progress="hidden",
            api_visibility="private",
        )
        page.load(worker.start, None, None, api_visibility="private")
    page.queue(max_size=128, default_concurrency_limit=_VIEWERS)
    return page


def _foreseen(widgets: Controls, stage: Stage) -> list[Any]:
    return [widgets.length_note, widgets.memory_note, stage.gauge]


def _connect_form(widgets: Controls, stage: Stage, handlers: Handlers) -> None:
    quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
    chips.connect(widgets.examples, widgets.prompt, "replace")
    chips.connect(widgets.vocabulary, widgets.prompt, "append")
    widgets.model.input(
        handlers.choose_model,
        [widgets.model, widgets.preset],
        [
            widgets.about, widgets.examples, widgets.vocabulary_fold, widgets.vocabulary, widgets.picture,
            widgets.camera, widgets.blocks, widgets.as_path, widgets.mode, *widgets.codec_numbers,
            *widgets.policy_numbers,
        ],
        **quiet,
    )  # fmt: skip
    widgets.mode.input(
        handlers.choose_mode,
        [widgets.model, widgets.mode],
        [widgets.mode, *widgets.policy_numbers],
        **quiet,
    )
    widgets.preset.input(
        handlers.choose_preset,
        [widgets.model, widgets.preset],
        [widgets.memory, *widgets.codec_numbers],
        **quiet,
    )
    widgets.path.change(
        handlers.draw_path,
        [widgets.model, widgets.path],
        [widgets.path_note, widgets.map],
        trigger_mode="always_last",
        **quiet,
    )
    widgets.picture.change(handlers.look_at_picture, widgets.picture, widgets.picture_note, **quiet)
    planned = [getattr(widgets, name) for name in PLANNED]
    gr.on(
        [widget.change for widget in [widgets.model, *planned]],
        handlers.foresee,
        [stage.run_id, widgets.model, *planned],
        _foreseen(widgets, stage),
        trigger_mode="always_last",
        **quiet,
    )


def _connect_run(widgets: Controls, stage: Stage, handlers: Handlers) -> None:
    gr.on(
        [widgets.generate.click, widgets.prompt.submit],
        handlers.generate,
        [widgets.model, widgets.randomize, *(getattr(widgets, name) for name in ASKED)],
        [*stage, widgets.seed, widgets.generate, widgets.stop],
        concurrency_limit=_VIEWERS,
        show_progress="hidden",
        api_name="generate",
    )
    # Never Gradio's `cancels`: the run must end by itself, to deliver what it made.
    widgets.stop.click(
        handlers.stop,
        stage.run_id,
        widgets.stop,
        queue=False,
        show_progress="hidden",
        api_visibility="private",
    )
