"""How a LongCat video is made, beside its prompt: sampling, guidance, and what a continuation looks back on.

Nothing here loads torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

LATENT_FRAMES = 4  # video frames a latent stands for; the first one of a window stands for 1
WINDOW = 93  # frames: what the model was trained on, and a clip made from nothing
CONDITION = 73  # frames a continuation looks back on (QVG, scripts/LongCat); upstream's own demonstration: 13
FPS = 15
# run_demo_text_to_video.py of the authors' repository; Wan's own negative prompt, in English.
NEGATIVE = (
    "Bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, images, static, "
    "overall gray, worst quality, low quality, JPEG compression residue, ugly, incomplete, extra fingers, "
    "poorly drawn hands, poorly drawn faces, deformed, disfigured, misshapen limbs, fused fingers, still "
    "picture, messy background, three legs, many people in the background, walking backwards"
)

Source = Literal["re-encoded", "kept", "latents"]
Projection = Literal["upstream", "consistent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`steps` None is the schedule's own number; `condition_frames` 0 looks back on everything so far.

    `source` is what a continuation looks back on: "re-encoded", frames as the last decoding of the window
    left them (upstream); "kept", frames as they were first shown; "latents", without another encoding, which
    is not the same, as the autoencoder treats a window's first frame by itself. `projection` is what CFG-zero
    compares: as upstream, which counts the picture of image-to-video in, or always the new frames only.
    """

    distilled: bool = False
    steps: int | None = None
    guidance: float = 4.0  # 1 or less: none; the distilled model takes none
    negative: str = NEGATIVE
    window: int = WINDOW
    condition_frames: int = CONDITION
    source: Source = "re-encoded"
    projection: Projection = "upstream"

    def __post_init__(self) -> None:
        for name in ("window", "condition_frames"):
            frames = getattr(self, name)
            if frames % LATENT_FRAMES != 1 and not (name == "condition_frames" and frames == 0):
                raise ValueError(
                    f"{name}={frames} frames are not whole latents: give 13, 73 or another 4n + 1"
                )
        if self.condition_frames >= self.window:
            raise ValueError(
                f"condition_frames={self.condition_frames} leaves nothing to make of a window of "
                f"{self.window} frames: look back on fewer"
            )
        if self.steps is not None and not 1 <= self.steps <= 1000:
            raise ValueError(f"steps={self.steps} must be 1 to 1000")
        if not 0 <= self.guidance <= 50:
            raise ValueError(f"guidance={self.guidance} must be 0 to 50; upstream uses 4, and 1 turns it off")
        for name, known in (("source", get_args(Source)), ("projection", get_args(Projection))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r} must be one of {', '.join(known)}")

    @property
    def guided(self) -> bool:
        return self.guidance > 1 and not self.distilled

    @property
    def new_frames(self) -> int:
        """Frames a continuation adds."""
        return self.window - (self.condition_frames or CONDITION)

    def changed(self, options: Iterable[tuple[str, str]]) -> Settings:
        """With the options of a request, names and values as text. Raises ValueError for what is unknown."""
        types = {field.name: field.type for field in fields(self)}
        made = self
        for name, value in options:
            if name not in types:
                raise ValueError(f"LongCat-Video has no setting {name!r}: use one of {', '.join(types)}")
            made = replace(made, **{name: _parsed(name, value, str(types[name]))})
        return made


FULL = Settings()
TINY_SETTINGS = Settings(steps=2, window=13, condition_frames=9)  # of `spec.TINY`


def latents_of(frames: int) -> int:
    """Latents of a window of 4n + 1 frames."""
    return 1 + (frames - 1) // LATENT_FRAMES


def _parsed(name: str, value: str, kind: str) -> bool | int | float | str | None:
    try:
        if kind == "bool":
            return {"yes": True, "no": False}[value]
        if kind == "float":
            return float(value)
        if kind.startswith("int"):
            return None if value == "" and "None" in kind else int(value)
    except (KeyError, ValueError):
        expected = {"bool": "yes or no", "float": "a number"}.get(kind, "a whole number")
        raise ValueError(f"{name} is {expected}, not {value!r}") from None
    return value
