"""Settings of a LongCat video beside its prompt: sampling, guidance, and the frames that a continuation uses.

Nothing here loads torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

LATENT_FRAMES = 4  # video frames per latent; the first latent of a window is 1 frame
WINDOW = 93  # frames: the model's training length, and the length of a clip made from nothing
CONDITION = 73  # frames that condition a continuation (QVG, scripts/LongCat); 13 in upstream's demonstration
FPS = 15
# From run_demo_text_to_video.py of the authors' repository; Wan's own negative prompt, in English.
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
    """The settings. `steps` None is the schedule's default; `condition_frames` 0 uses all frames so far.

    `source` is the origin of a continuation's history: "re-encoded", frames of the last decoding of the
    window (upstream); "kept", frames as they were first decoded; "latents", without encoding again, which
    gives another result, since the autoencoder treats a window's first frame differently. `projection` is the
    frames that CFG-zero compares: as upstream, which includes the picture of image-to-video, or always new
    frames only.
    """

    distilled: bool = False
    steps: int | None = None
    guidance: float = 4.0  # 1 or less: none; the distilled model uses none
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
        """Returns the number of frames that a continuation adds."""
        return self.window - (self.condition_frames or CONDITION)

    def changed(self, options: Iterable[tuple[str, str]]) -> Settings:
        """Returns settings with a request's options, names and values as text.

        Raises ValueError for unknown ones.
        """
        types = {field.name: field.type for field in fields(self)}
        made = self
        for name, value in options:
            if name not in types:
                raise ValueError(f"LongCat-Video has no setting {name!r}: use one of {', '.join(types)}")
            made = replace(made, **{name: _parsed(name, value, str(types[name]))})
        return made


FULL = Settings()
TINY_SETTINGS = Settings(steps=2, window=13, condition_frames=9)  # for `spec.TINY`


def latents_of(frames: int) -> int:
    """Returns the number of latents of a window of 4n + 1 frames."""
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
