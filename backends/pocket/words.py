"""The words Pocket World understands, and how a prompt becomes counts of them."""

from __future__ import annotations

import re
from dataclasses import dataclass

THEMES = ("meadow", "desert", "snow", "dusk", "night")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
KINDS = ("ball", "box", "pillar")
FEATURES = len(THEMES) + len(COLOURS) * len(KINDS) + len(COLOURS) + len(KINDS)
MAX_COUNT = 4

VOCABULARY = (("places", THEMES), ("colours", COLOURS), ("things", KINDS))

_SYNONYMS = {
    "grass": "meadow", "field": "meadow", "meadows": "meadow", "garden": "meadow", "spring": "meadow",
    "sand": "desert", "dunes": "desert", "sandy": "desert",
    "snowy": "snow", "winter": "snow", "ice": "snow", "icy": "snow", "arctic": "snow",
    "sunset": "dusk", "evening": "dusk", "twilight": "dusk", "sunrise": "dusk",
    "dark": "night", "moonlight": "night", "midnight": "night", "moonlit": "night",
    "crimson": "red", "scarlet": "red", "gold": "yellow", "golden": "yellow", "lime": "green",
    "turquoise": "cyan", "teal": "cyan", "violet": "purple", "magenta": "pink",
    "sphere": "ball", "orb": "ball", "globe": "ball",
    "cube": "box", "crate": "box", "block": "box", "boxes": "box",
    "column": "pillar", "tower": "pillar", "post": "pillar", "cylinder": "pillar", "pole": "pillar",
}  # fmt: skip
_NUMBERS = {"a": 1, "an": 1, "one": 1, "single": 1, "two": 2, "couple": 2, "pair": 2, "three": 3, "four": 4}
_FILLER_TEXT = (
    "the and with in on at of by to from some is are there near beside under over into "
    "scene world place view it its this that which where s something thing things"
)
_FILLER = frozenset(_FILLER_TEXT.split())


@dataclass(frozen=True, slots=True)
class PromptWords:
    """What was understood of a prompt, in `features` [FEATURES] and in words."""

    features: tuple[float, ...]
    understood: tuple[str, ...]
    unknown: tuple[str, ...]

    def note(self) -> str:
        """One sentence for the page."""
        if not self.understood and not self.unknown:
            return "No prompt: the world is left to chance."
        heard = (
            f"Understood: {', '.join(self.understood)}."
            if self.understood
            else "No word of the prompt is known here."
        )
        missed = ", ".join(self.unknown[:8]) + (" ..." if len(self.unknown) > 8 else "")
        return f"{heard} Not in its vocabulary: {missed}." if self.unknown else heard


def theme_feature(theme: int) -> int:
    return theme


def pair_feature(colour: int, kind: int) -> int:
    return len(THEMES) + colour * len(KINDS) + kind


def colour_feature(colour: int) -> int:
    return len(THEMES) + len(COLOURS) * len(KINDS) + colour


def kind_feature(kind: int) -> int:
    return len(THEMES) + len(COLOURS) * len(KINDS) + len(COLOURS) + kind


def parse_prompt(text: str) -> PromptWords:
    """Counts of known words.

    `two blue pillars` is 2 at (blue, pillar); a colour or a thing alone counts by itself.
    """
    features = [0.0] * FEATURES
    understood: list[str] = []
    unknown: list[str] = []
    count, colour = 1, None

    def add(index: int, words: str, number: int) -> None:
        features[index] = min(features[index] + number, MAX_COUNT)
        understood.append(words if number == 1 else f"{number} x {words}")

    for raw in re.findall(r"[^\W_]+|[,.;]", text.lower()):
        word = _known(raw)
        if word in THEMES:
            if not any(features[: len(THEMES)]):
                add(theme_feature(THEMES.index(word)), word, 1)
        elif word in COLOURS:
            if colour is not None:
                add(colour_feature(colour), f"something {COLOURS[colour]}", count)
                count = 1
            colour = COLOURS.index(word)
        elif word in KINDS:
            kind = KINDS.index(word)
            if colour is None:
                add(kind_feature(kind), word, count)
            else:
                add(pair_feature(colour, kind), f"{COLOURS[colour]} {word}", count)
            count, colour = 1, None
        elif raw in _NUMBERS:
            count = _NUMBERS[raw]
        elif raw.isdigit():
            count = max(1, min(int(raw[:4]), MAX_COUNT))
        elif raw in ",.;":
            if colour is not None:
                add(colour_feature(colour), f"something {COLOURS[colour]}", count)
            count, colour = 1, None
        elif raw not in _FILLER and raw not in unknown:
            unknown.append(raw)
    if colour is not None:
        add(colour_feature(colour), f"something {COLOURS[colour]}", count)
    return PromptWords(tuple(features), tuple(understood), tuple(unknown))


def _known(raw: str) -> str:
    singular = raw[:-1] if raw.endswith("s") and len(raw) > 3 else raw
    return _SYNONYMS.get(raw) or _SYNONYMS.get(singular) or (raw if raw in THEMES else singular)
