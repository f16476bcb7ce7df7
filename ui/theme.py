"""Theme of Gradio's own widgets: colors, fonts and spaces. The rest is in theme.css."""

from __future__ import annotations

from gradio.themes import Base


def theme() -> Base:
    """Returns the theme. It uses system fonts only, so that nothing is fetched."""
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
        slider_color="*primary_700",
        slider_color_dark="*primary_500",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
        layout_gap="14px",
    )
